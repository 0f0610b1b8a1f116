"""Configuration of image intake: window, image size, source of class names, limits."""

from collections.abc import Mapping
from dataclasses import field

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from physical.datasets.dicom_file import Limits
from physical.datasets.greyscale import Window
from physical.intake.deidentify import Action, action_of

_LONGEST_NAME = 64


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class IntakeConfig:
    """How arriving files are processed.

    Args:
        image_size: Height and width in the mirror [px]; must be the mirror's.
        window_centre: Density of middle grey [HU].
        window_width: Range from black to white [HU].
        use_own_window: Use the file's own window instead (DICOM).
        label_tag: DICOM keyword of the element that names the class, such as
            "BodyPartExamined"; None: no image has a class name.
        class_from_folder: PNG, JPEG and NIfTI: use the inbox's sub-folder as class name.
        class_names: Sender's word (any case) -> class name; other words give no name. Empty: the
            sender's word in small letters is the class name.
        limits: Size limits of a file.
        settle_seconds: A file is taken when its size has not changed for this time [s].
        most_attempts: A file goes to quarantine when this many attempts to read it have killed
            the process.

    Raises:
        ValueError: If a value is out of range, or free text that may hold a patient's name would
            become a class name.
    """

    image_size: int = 64
    window_centre: float = 40.0
    window_width: float = 400.0
    use_own_window: bool = False
    label_tag: str | None = "BodyPartExamined"
    class_from_folder: bool = False
    class_names: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    settle_seconds: float = 2.0
    most_attempts: int = 5

    def __post_init__(self) -> None:
        """Check the ranges."""
        Window(self.window_centre, self.window_width)
        if any(not name.strip() or name != name.strip() for name in self.class_names.values()):
            raise ValueError(
                f"intake: class_names leads to {sorted(self.class_names.values())}; "
                "allowed: names without blanks around them; correct them"
            )
        if not (
            8 <= self.image_size <= 1024 and self.settle_seconds >= 0 and self.most_attempts >= 1
        ):
            raise ValueError(
                f"intake: got image_size {self.image_size}, settle_seconds {self.settle_seconds}, "
                f"most_attempts {self.most_attempts}; "
                "allowed: 8 to 1024, 0 and more, 1 and more; correct them"
            )
        if self.label_tag and not self.class_names and action_of(self.label_tag) is not Action.KEEP:
            raise ValueError(
                f"intake: label_tag is '{self.label_tag}', which may hold a patient's name, "
                "and class_names is empty; allowed: a tag that de-identification keeps, or a list "
                "in class_names of the values that are classes; fill class_names"
            )

    @property
    def window(self) -> Window | None:
        """Return the window, or None for the file's own."""
        return None if self.use_own_window else Window(self.window_centre, self.window_width)

    def class_of(self, written: str | None) -> str | None:
        """Return the class name for the sender's word; None if there is none."""
        word = " ".join((written or "").split()).lower()
        if not word:
            return None
        if not self.class_names:
            return word if len(word) <= _LONGEST_NAME and word.isprintable() else None
        return {" ".join(key.split()).lower(): name for key, name in self.class_names.items()}.get(
            word
        )
