"""``python -m tests.torture``; what starts processes imports this module again, so nothing else stands here."""

if __name__ == "__main__":
    from tests.torture.command import main

    main()
