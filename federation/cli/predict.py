"""``fedka predict``: predict the class of image files, and draw where the model looked."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from federation.cli.models import Format, Name, Store, open_registry

if TYPE_CHECKING:
    from incremental.network import IncrementalNetwork

# Pillow's modes of 8-bit images; 16-bit images have no agreed brightness.
_GREY_MODES, _COLOUR_MODES = ("1", "L", "LA"), ("P", "RGB", "RGBA")
NO_EVIDENCE = "no positive evidence"


class ImageError(ValueError):
    """An image file that cannot be read: what, got, allowed, what to do."""


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(help="PNG, JPEG, or .npy (8-bit, [H, W], [H, W, C] or [N, H, W, C])."),
    ],
    *,
    model: Annotated[
        str, typer.Option(help="Alias or version of a registered model, or a model folder.")
    ] = "champion",
    uri: Store = None,
    name: Name = "fedka",
    overlay_dir: Annotated[
        Path | None,
        typer.Option(help="Write here, for each image, where the model looked (Grad-CAM)."),
    ] = None,
    output: Format = "table",
) -> None:
    """Predict the class of images, its probability, and the entropy (0: sure, 1: no idea)."""
    # All files are read first: an unreadable one stops the command before the model is loaded.
    labelled_images = [each for path in images for each in read_images(path)]
    network, class_names = _load(model, uri, name)
    found = [
        _predict_image(
            network,
            class_names,
            label,
            pixels,
            overlay_dir and overlay_dir / f"{number}-{Path(label).stem}.png",
        )
        for number, (label, pixels) in enumerate(labelled_images, 1)
    ]
    if output == "json":
        typer.echo(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    columns = ["image", "class", "probability", "entropy", *(["attention"] if overlay_dir else [])]
    for column in columns:
        table.add_column(column, overflow="fold")
    for each in found:
        probability, entropy = f"{each['probability']:.4f}", f"{each['entropy_fraction']:.4f}"
        attention = [each["attention"]] if overlay_dir else []
        table.add_row(each["image"], each["class_name"], probability, entropy, *attention)
    Console().print(table)


def read_images(path: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the images of a file, each with a label and of shape [H, W, C].

    Only a .npy file of four axes holds more than one image.

    Raises:
        ImageError: If the file holds no 8-bit image.
    """
    try:
        pixels = _read_npy(path) if path.suffix == ".npy" else _read_picture(path)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{path} cannot be read: {error}; "
            "allowed: 8-bit PNG, JPEG or .npy; convert it or leave it out"
        ) from error
    if pixels.ndim == 4:
        return [(f"{path}[{index}]", each) for index, each in enumerate(pixels)]
    return [(str(path), pixels)]


def draw_overlay(
    path: Path, pixels: NDArray[np.uint8], heat: NDArray[np.float32], title: str
) -> None:
    """Write a PNG of the image, alone and under its attention map."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.9), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for axes, caption in (
        (left, "image, as the model sees it"),
        (right, "attention" if heat.any() else NO_EVIDENCE),
    ):
        axes.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(caption, fontsize="medium")
        axes.set_axis_off()
    shown = right.imshow(
        heat, cmap="inferno", alpha=0.75 * heat, vmin=0, vmax=1, interpolation="bilinear"
    )
    figure.colorbar(shown, ax=right, fraction=0.046, label="evidence, scaled to 0 to 1")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _predict_image(
    network: "IncrementalNetwork",
    class_names: Sequence[str],
    label: str,
    pixels: NDArray[np.uint8],
    overlay: Path | None,
) -> dict[str, Any]:
    from incremental.explanation import explain
    from incremental.prediction import as_tensor
    from incremental.prediction import predict as predict_batch

    pixels = _fit_to_network(pixels, network.config.channels, network.config.image_size)
    prediction = predict_batch(network, pixels[None])
    row = int(prediction.rows[0])
    found: dict[str, Any] = {
        "image": label,
        "class_name": class_names[row],
        "probability": float(prediction.probabilities[0, row]),
        "entropy_fraction": float(prediction.entropy_fractions[0]),
    }
    if overlay is not None:
        (heat,) = explain(network, as_tensor(pixels[None], network.config.channels) / 255, [row])
        numbers = "probability {probability:.2f}, entropy {entropy_fraction:.2f}".format(**found)
        draw_overlay(overlay, pixels, heat, f"{found['class_name']}  {numbers}")
        found["overlay"] = str(overlay)
        found["attention"] = str(overlay) if heat.any() else f"{NO_EVIDENCE}: {overlay}"
    return found


def _load(model: str, uri: str | None, name: str) -> tuple["IncrementalNetwork", list[str]]:
    from incremental.model_file import MANIFEST_FILE, load_model

    is_folder = (Path(model) / MANIFEST_FILE).exists()
    network, manifest = (
        load_model(Path(model)) if is_folder else open_registry(uri, name).load(model)
    )
    return network, list(manifest["class_names"])


def _read_npy(path: Path) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.load(path, allow_pickle=False)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    is_image = pixels.ndim in (3, 4) and pixels.shape[-1] in (1, 3) and 0 not in pixels.shape
    if pixels.dtype != np.uint8 or not is_image:
        raise ImageError(
            f"it holds {pixels.dtype} of shape {list(pixels.shape)}; "
            "[H, W], [H, W, C] or [N, H, W, C] with C 1 or 3 are known"
        )
    return pixels


def _read_picture(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as picture:
        if picture.mode not in (*_GREY_MODES, *_COLOUR_MODES):
            raise ImageError(f"its pixels are {picture.mode}, not 8-bit")
        pixels = np.asarray(picture.convert("L" if picture.mode in _GREY_MODES else "RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _fit_to_network(pixels: NDArray[np.uint8], channels: int, side: int) -> NDArray[np.uint8]:
    """Return an image like the training images: shrunk to the network's input, with its channels.

    Args:
        pixels: Shape [H, W, C].
        channels: Channels of the network's input; with 1 a colour image becomes grey.
        side: Side of the network's input [px]; smaller images keep their size.
    """
    from PIL import Image

    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    if channels == 1:
        picture = picture.convert("L")
    if max(picture.size) > side:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels
