"""What pages of a report are made of: pictures as SVG, tables, numbers with their intervals."""

import base64
import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

matplotlib.rcParams["svg.hashsalt"] = "ehr.c"  # same figures, same bytes


def picture(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def axes(title, x, y, width=4.4, height=4.0):
    figure, ax = plt.subplots(figsize=(width, height))
    ax.set_title(title, fontsize=11, loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def legend(ax, **where):
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, facecolor="white", edgecolor="none", framealpha=1, **where)


def legend_below(ax):
    """Beside it a picture would be wide, and its words too small to read on a phone."""
    legend(ax, loc="upper left", bbox_to_anchor=(0.0, -0.16))


def legend_of_many(ax, **where):
    """Below the picture where it would hide the lines."""
    if len(ax.get_legend_handles_labels()[0]) > 5:
        legend_below(ax)
    else:
        legend(ax, **where)


def number(x, digits=3):
    return "-" if x is None or not np.isfinite(x) else f"{x:.{digits}f}"


def interval(x, digits=3):
    """None where resampling changes nothing: of no event at all, or of a figure that is 0.5 by its definition."""
    return "" if not x or x[0] == x[1] else f" <small>({x[0]:.{digits}f} to {x[1]:.{digits}f})</small>"


def figure_of(block, name, digits=3):
    return number(block.get(name), digits) + interval(block.get("interval", {}).get(name), digits)


def row(cells, tag="td"):
    return "<tr>" + "".join(f"<{tag}>{c}</{tag}>" for c in cells if c is not None) + "</tr>"


def table(head, rows):
    return '<div class="wide"><table>' + row(head, "th") + "".join(row(r) for r in rows) + "</table></div>"
