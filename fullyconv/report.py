"""One page that tells a run or an evaluation: report.html, with every picture inside it and nothing fetched."""

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fullyconv import charts, metrics
from fullyconv.wording import counted
from fullyconv.writing import write_text

WIDEST = 1400  # pixels; wider pictures are reduced for the page, the files keep their size
SHOWN_VALUES = 12  # of a list, such as the class weights

STYLE = """
:root { --paper: #fbfbfa; --card: #ffffff; --ink: #20242a; --quiet: #667080; --line: #e2e5e9; --accent: #2563b0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --card: #1e2228; --ink: #e6e9ee; --quiet: #9aa4b2; --line: #333a43; --accent: #6aa5ea; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.quiet, figcaption, .note { color: var(--quiet); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.9rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile:first-child { border-color: var(--accent); }
.tile:first-child b { color: var(--accent); }
.tile span { color: var(--quiet); font-size: .85rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .35rem .8rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: var(--quiet); white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { width: 40%; min-width: 6rem; vertical-align: middle; }
.bar i { display: block; height: .8rem; border-radius: 2px; background: var(--accent); }
figure { margin: 1.25rem 0; }
figure img { max-width: 100%; height: auto; display: block; background: #fff; border: 1px solid var(--line);
  border-radius: 10px; padding: 6px; }
figcaption { margin-top: .3rem; }
summary { cursor: pointer; color: var(--accent); margin: .75rem 0; }
@media (max-width: 40rem) {
  th, td { padding: .3rem .5rem; }
  th { white-space: normal; }
  .bar { width: 25%; min-width: 3rem; }
}
code { font-family: ui-monospace, Consolas, monospace; font-size: .9em; }
"""


def write_report(folder: str | Path) -> Path:
    """Writes report.html into a run folder or the folder of an evaluation, and gives its path.

    What is missing there, because a run was cut short, is left out of the page. In a run folder the charts of
    `metrics.jsonl` are written too, to plots/curves.png.
    """
    folder = Path(folder)
    evaluation = folder / "evaluation" if (folder / "evaluation").is_dir() else folder
    records = read_records(folder / "metrics.jsonl")
    values, plan = _read(evaluation / "report.json"), _read(folder / "plan.json")
    environment = _read(folder / "env.json")
    if records:
        (folder / "plots").mkdir(exist_ok=True)
        charts.save(charts.curves(records), folder / "plots" / "curves.png")
    sections = [
        _headline(folder, values, plan),
        _training(plan, records, folder / "plots" / "curves.png"),
        _classes(values.get("classes", [])),
        _confusion(evaluation / "plots" / "confusion.png"),
        _worst(evaluation / "worst"),
        _conventions(values.get("conventions", {})),
        _environment(environment),
    ]
    name = html.escape(_title(folder, values, plan))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )
    file = folder / "report.html"
    write_text(file, page)
    return file


def read_records(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a killed run left unfinished is left out."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise
    return records


def _headline(folder: Path, values: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    title = _title(folder, values, plan)
    about = [f"run <code>{html.escape(str(folder))}</code>"] if plan else []
    if plan.get("data"):
        about.append(f"data <code>{html.escape(str(plan['data']))}</code>")
    if values and title != values["title"]:
        about.append(html.escape(values["title"]))
    if not values:
        return f"<h1>{html.escape(title)}</h1><p class=quiet>{'<br>'.join(about)}</p><p>Not evaluated yet.</p>"
    tiles = "".join(
        f"<div class=tile><b>{_percent(values[name])}</b><span>{metrics.TITLES[name]}</span></div>"
        for name in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    )
    low, high = values.get("mean_iou_interval", (None, None))
    images, classes = counted(values["images"], "image"), counted(len(values["classes"]), "class")
    scored = f"Percent, over {images} and {classes}, at the size of the masks."
    interval = (
        f" Had other images of the same kind been drawn, mean IoU would lie between {_percent(low)} and "
        f"{_percent(high)} in 95 of 100 cases (bootstrap over images)."
        if low is not None
        else ""
    )
    notes = "".join(f"<p>{html.escape(note)}.</p>" for note in values.get("notes", []))
    return (
        f"<h1>{html.escape(title)}</h1><p class=quiet>{'<br>'.join(about)}</p>"
        f"<div class=tiles>{tiles}</div><p class=quiet>{scored}{interval}</p>{notes}"
    )


def _title(folder: Path, values: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    return str(plan.get("architecture", {}).get("name") or values.get("title") or folder.resolve().name)


def _training(plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]], curves: Path) -> str:
    if not plan and not records:
        return ""
    table = _table(("", ""), ((html.escape(key), html.escape(value)) for key, value in _flat(plan)))
    detail = f"<details><summary>The whole plan</summary>{table}</details>" if plan else ""
    figure = _figure(curves, "Loss as measured (pale) and smoothed; the scores are those of the validation split.")
    return f"<h2>How it was trained</h2>{_length(records)}{_in_short(plan)}{figure}{detail}"


def _length(records: Sequence[Mapping[str, Any]]) -> str:
    """Steps and images up to the last record, a validation at the end of a run; time up to the last noted step."""
    noted = [record for record in records if record.get("kind") == "train"]
    if not noted:
        return ""
    last, steps = noted[-1], records[-1]["step"]
    images = steps * last["images"] // last["step"]
    return (
        f"<p>{counted(steps, 'step')}, {counted(images, 'image')}; {last['seconds'] / 60:.1f} minutes up to step "
        f"{last['step']:,}, {last['images'] / last['seconds']:.1f} images a second.</p>"
    )


def _in_short(plan: Mapping[str, Any]) -> str:
    recipe = plan.get("recipe", {})
    if not recipe:
        return ""
    facts = {
        "optimiser": "{optimizer}, learning rate {learning_rate:g}, {schedule}".format_map(recipe),
        "batch": recipe.get("batch"),
        "loss": "{loss}, class balance {balance}".format_map(recipe),
        "precision": plan.get("precision"),
        "started from": "random weights" if plan.get("pretrained") == "none" else plan.get("pretrained"),
        "seed": plan.get("seed"),
    }
    rows = ((name, html.escape(_text(value))) for name, value in facts.items() if value is not None)
    return _table(("", ""), rows)


def _classes(classes: Sequence[Mapping[str, Any]]) -> str:
    if not classes:
        return ""
    total = sum(row["pixels"] for row in classes) or 1
    best_first = sorted(classes, key=lambda row: -1 if row["iou"] is None else row["iou"], reverse=True)
    rows = (
        (
            html.escape(row["name"]),
            _percent(row["iou"]),
            f'<i style="width:{100 * (row["iou"] or 0):.1f}%"></i>',
            _percent(row["accuracy"]),
            f"{100 * row['pixels'] / total:.2f}",
        )
        for row in best_first
    )
    table = _table(("class", "IoU", "", "accuracy", "% of pixels"), rows, ("", "number", "bar", "number", "number"))
    note = "IoU: shared pixels over all pixels of truth and prediction. Accuracy: share of the true pixels found. "
    return f"<h2>Classes</h2><p class=quiet>{note}A dash: no such pixel.</p>{table}"


def _confusion(picture: Path) -> str:
    caption = "Each row shows where the pixels of one true class went; a grey row has none."
    figure = _figure(picture, caption)
    return f"<h2>What is taken for what</h2>{figure}" if figure else ""


def _worst(folder: Path) -> str:
    figures = "".join(_figure(file, _caption(file)) for file in sorted(folder.glob("*.png")))
    return f"<h2>The worst images</h2>{figures}" if figures else ""


def _caption(file: Path) -> str:
    """From the name of a picture, RANK_MEANIOU_NAME.png."""
    parts = re.fullmatch(r"(\d+)_([\d.]+)_(.+)", file.stem)
    return f"{int(parts[1])}. {parts[3]}: mean IoU {parts[2]}" if parts else file.stem


def _conventions(values: Mapping[str, float | None]) -> str:
    if not values:
        return ""
    rows = (
        (f"<code>{html.escape(name)}</code>", _percent(value), html.escape(metrics.CONVENTIONS.get(name, "")))
        for name, value in values.items()
    )
    return (
        "<h2>The same masks in other programs</h2><p class=quiet>Programs call different numbers mean IoU. This is "
        "what each would print; the first is the headline above.</p>"
        + _table(("convention", "mean IoU", "what it is"), rows, ("", "number", ""))
    )


def _environment(values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    rows = ((html.escape(key), html.escape(value)) for key, value in _flat(values))
    return f"<h2>Environment</h2>{_table(('', ''), rows)}"


def _figure(picture: Path, caption: str) -> str:
    if not picture.exists():
        return ""
    alt = html.escape(caption, quote=True)
    return f'<figure><img src="{_inlined(picture)}" alt="{alt}"><figcaption>{alt}</figcaption></figure>'


def _inlined(picture: Path) -> str:
    """The picture as a data URL: charts as PNG, photographs, which PNG stores badly, as JPEG."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    photograph = picture.parent.name == "worst"
    held = io.BytesIO()
    if photograph:
        image.save(held, "JPEG", quality=86)
    else:
        image.save(held, "PNG", optimize=True)
    kind = "jpeg" if photograph else "png"
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode('ascii')}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str] = ()) -> str:
    """A table of cells that are HTML already.

    Args:
        head: Its headings; none is shown if all are empty.
        rows: The cells.
        kinds: The CSS class of each column.
    """
    kinds = kinds or [""] * len(head)

    def row(cells: Sequence[str], tag: str) -> str:
        opened = (f'<{tag} class="{kind}">' if kind else f"<{tag}>" for kind in kinds)
        return "<tr>" + "".join(f"{tag_}{cell}</{tag}>" for tag_, cell in zip(opened, cells, strict=True)) + "</tr>"

    top = f"<thead>{row(head, 'th')}</thead>" if any(head) else ""
    body = "".join(row(cells, "td") for cells in rows)
    return f"<div class=scroll><table>{top}<tbody>{body}</tbody></table></div>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as rows of name and text."""
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        more = f", ... ({len(value)} in all)" if len(value) > SHOWN_VALUES else ""
        return ", ".join(_text(item) for item in value[:SHOWN_VALUES]) + more
    return str(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values
