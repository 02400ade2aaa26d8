import torch

from simipu_core.losses.terms import LossTerm, logged, weighted_sum


def test_a_loss_is_the_weighted_sum_of_its_terms() -> None:
    one, other = torch.tensor(2.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    loss = weighted_sum({"one": LossTerm(one, 0.5), "other": LossTerm(other)})
    assert loss.item() == 0.5 * 2 + 5
    loss.backward()  # type: ignore[no-untyped-call]
    assert (one.grad, other.grad) == (torch.tensor(0.5), torch.tensor(1.0))


def test_terms_are_logged_by_name_without_their_weights() -> None:
    top1 = torch.tensor(0.25)
    intra = LossTerm(torch.tensor(2.0, requires_grad=True), 0.5, {"top1": top1})
    values = logged({"intra": intra, "koleo": LossTerm(torch.tensor(5.0))})
    assert values == {"intra_loss": torch.tensor(2.0), "intra_top1": top1, "koleo_loss": torch.tensor(5.0)}
    assert not values["intra_loss"].requires_grad
    assert logged({"intra": intra}) == {"intra_top1": top1}
