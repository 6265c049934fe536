"""The options of an ascent: a preset, and numbers in place of its own."""

import click

from deepinside.cli.options import all_of

__all__ = ["ascent_options"]

# By the names of `Engine.visualize`'s arguments.
ascent_options = all_of(
    click.option(
        "--preset",
        metavar="paper|natural",
        help="Named settings.  [default: natural for files with that step, else paper]",
    ),
    click.option(
        "--steps", type=int, metavar="N", help="Number of steps.  [default: the preset's]"
    ),
    click.option("--step-size", type=float, metavar="X", help="Length factor of a step."),
    click.option("--l2", type=float, metavar="X", help="Weight of the penalty l2 * |picture|^2."),
    click.option(
        "--init",
        default="zeros",
        show_default=True,
        metavar="zeros|noise|IMAGE",
        help="Start: the mean picture, faint noise, or a picture.",
    ),
    click.option("--total-variation", type=float, metavar="X", help="Weight of the roughness."),
    click.option(
        "--jitter", type=float, metavar="X", help="Shift of the views, parts of the side."
    ),
    click.option("--rotation", type=float, metavar="X", help="Turn of the views, degrees."),
    click.option("--zoom", type=float, metavar="X", help="Zoom of the views, a factor."),
    click.option(
        "--detail", type=float, metavar="X", help="Part of the frequencies to begin with."
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, metavar="N", help="Of noise and views."
    ),
    click.option("--snapshot-every", type=int, metavar="N", help="Also write every Nth step."),
    click.option(
        "--score-every",
        type=int,
        default=10,
        show_default=True,
        metavar="N",
        help="Read the score every N steps.",
    ),
    click.option(
        "--patience", type=int, metavar="N", help="Stop when the scores have not risen for N steps."
    ),
)
