"""SimIPU on one page: pre-train an image encoder on pairs of images and LiDAR scans, without labels.

The commands stand in `.venv/bin` (`source .venv/bin/activate`):

    simipu synthesize --out data/raw
    simipu ingest pretrain --out build/pair_frames
    simipu pair pretrain build/pair_frames --out build/pairs
    python examples/pretrain_one_page.py build/pairs --out encoder.safetensors

The rates below are fixed, and no schedule lowers them. `simipu pretrain` takes its own from the settings, lowers them
after each epoch, and adds checkpoints, several GPUs, mixed precision, guards and tracking.
"""

import argparse
from pathlib import Path

import torch

import simipu_core as simipu


def main() -> None:
    """Train, print the losses, save the encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="folder that `simipu pair pretrain` wrote")
    parser.add_argument("--experiment", type=Path, default=Path("params.yaml"), help="file of settings")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("encoder.safetensors"))
    args = parser.parse_args()
    config = simipu.load_experiment(args.experiment).pretrain
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # Data: each pair becomes two views of its scan and one of its image. Workers crop, augment, sample, find neighbours
    # and the positives: which point of one view is which of the other, and at which pixel of the image it lies.
    shards = simipu.Shards(args.pairs, "pairs")
    order = simipu.SampleOrder(shards.group_sizes, config.batch_size, config.seed)
    steps = range(args.epochs * order.steps_per_epoch)
    batches = simipu.batches(shards, order, simipu.PairViews(config), steps=steps, workers=config.workers)

    # Model: a point encoder, a ResNet, and projection heads for the two losses.
    torch.manual_seed(config.seed)
    model = simipu.SimIPU(config).to(device)
    image_side = [p for name, p in model.named_parameters() if not name.startswith("point_encoder.")]
    optimizers = [
        torch.optim.AdamW(model.point_encoder.parameters(), lr=1e-3, betas=(0.95, 0.99)),
        torch.optim.SGD(image_side, lr=0.03, momentum=0.9, weight_decay=1e-4),
    ]

    # Loss: InfoNCE between the points of both views (intra), and between pixels and points (inter).
    losses = []
    for step, batch in zip(steps, batches, strict=True):
        output = model(simipu.to_device(batch, device))
        for optimizer in optimizers:
            optimizer.zero_grad()
        output.loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append([output.loss.item(), *(term.loss.item() for term in output.terms.values())])
        if len(losses) == order.steps_per_epoch:
            means = torch.tensor(losses).mean(dim=0).tolist()
            shown = ", ".join(f"{name} {mean:.4f}" for name, mean in zip(["loss", *output.terms], means, strict=True))
            print(f"epoch {(step + 1) // order.steps_per_epoch}: {shown}")
            losses.clear()

    simipu.save_encoder(model, args.out)
    print(f"{args.out}: {config.image_encoder.name}, for examples/finetune_one_page.py --encoder or any other use")


if __name__ == "__main__":
    with simipu.plain_errors():
        main()
