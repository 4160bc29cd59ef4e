"""Whole experiments, from data to table: the quickstart, and those of the paper by name."""

from dataclasses import dataclass

SCENES = ("VOCdevkit", "voc2012_subset", "camvid")


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper.

    Args:
        title: What it asks, in one line.
        source: Where the paper has it.
        target: `module:function` of this package, imported when it is run; takes a `Workbench`, gives `Findings`.
        data: Folders below $FULLYCONV_DATA that suit it, the best first; empty for one that needs no data.
    """

    title: str
    source: str
    target: str
    data: tuple[str, ...] = ()


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment("What do the three nets cost, and how far do they see?", "table 1", "nets:table1"),
}
