"""Monocular depth on one page: fine-tune a depth net, from a pre-trained encoder or from random weights.

The commands stand in `.venv/bin` (`source .venv/bin/activate`):

    simipu ingest depth --out build/depth_frames
    simipu pair depth build/depth_frames --out build/depth
    python examples/finetune_one_page.py build/depth --encoder encoder.safetensors --out net.safetensors

`simipu finetune` and `simipu evaluate` do the same with checkpoints, several GPUs, named protocols and tracking.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

import simipu_core as simipu


def main() -> None:
    """Train, print the loss, save the net, score it on held-out frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("depth", type=Path, help="folder that `simipu pair depth` wrote")
    parser.add_argument("--encoder", type=Path, help="pre-trained encoder; without one, random weights")
    parser.add_argument("--experiment", type=Path, default=Path("params.yaml"), help="file of settings")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("net.safetensors"))
    args = parser.parse_args()
    experiment = simipu.load_experiment(args.experiment)
    config = experiment.finetune.model_copy(update={"init": "pretrained" if args.encoder else "torch_default"})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # Data: augmented images, and their depth in metres where it was measured, else 0.
    shards = simipu.Shards(args.depth, "depth", "train")
    order = simipu.SampleOrder(shards.group_sizes, config.batch_size, config.seed)
    steps = range(args.epochs * order.steps_per_epoch)
    views = simipu.DepthViews(config.augment, config.input_scale)
    batches = simipu.batches(shards, order, views, steps=steps, workers=config.workers)

    # Model: ResNet encoder and DenseDepth decoder.
    torch.manual_seed(config.seed)
    net = simipu.build_depth_net(config, args.encoder).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.schedule.max_lr, betas=config.betas)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.schedule.max_lr, total_steps=len(steps))

    losses = []
    for step, batch in zip(steps, batches, strict=True):
        batch = simipu.to_device(batch, device)
        prediction = F.interpolate(net(batch.images), batch.depth.shape[-2:], mode="bilinear", align_corners=True)
        loss = simipu.sig_loss(prediction, batch.depth, config.sig_lambda)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) == order.steps_per_epoch:
            print(f"epoch {(step + 1) // order.steps_per_epoch}: loss {sum(losses) / len(losses):.4f}")
            losses.clear()
    simipu.save_depth_net(net, args.out)

    # Scores: per held-out image, over the pixels that the experiment's first protocol counts, then averaged.
    net = simipu.load_depth_net(args.out, str(device))
    held_out, scores = simipu.Shards(args.depth, "depth", "eval"), []
    for row in map(held_out.row, range(len(held_out))):
        image, truth = simipu.decode_image(row["image"]), simipu.decode_depth(row["depth"], row["depth_scale"])
        valid = simipu.valid_pixels(experiment.evaluate.protocols[0], truth, experiment.evaluate.depth_range)
        scores.append(simipu.depth_metrics(truth[valid], simipu.predict_depth(net, image)[valid]))
    means = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
    print(f"{args.out}: {len(scores)} held-out images, {', '.join(f'{name} {x:.4f}' for name, x in means.items())}")


if __name__ == "__main__":
    with simipu.plain_errors():
        main()
