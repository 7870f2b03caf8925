"""What a service allows, and how it gathers pictures for the model."""

from dataclasses import dataclass, fields

from humanquery.core.errors import ConfigError


@dataclass(frozen=True)
class ServiceConfig:
    """Limits of one worker. Together they bound its memory: bodies by `waiting_bytes`, decoded
    pictures by `batch_size` times `max_pixels`, answers by `queue`."""

    batch_size: int = 4
    """pictures that the model is given at once, at most"""
    wait: float | int = 0.005
    """seconds that the first picture of a batch waits for others"""
    queue: int = 64
    """pictures that have been taken and are not answered; more are refused (503)"""
    waiting_bytes: int = 512_000_000
    """of all bodies that have been taken and are not answered; more are refused (503)"""
    max_bytes: int = 50_000_000
    """of one body"""
    max_pixels: int = 50_000_000
    """of one picture or frame"""
    max_pictures: int = 16
    """of one list"""
    max_frames: int = 300
    """of one clip that are looked at"""
    max_clips: int = 2
    """that are followed at the same time; more are refused (503)"""
    upload_seconds: float | int = 30
    """in which a body must have come"""
    seconds: float | int = 60
    """in which pictures must be answered once they have come"""
    clip_seconds: float | int = 300
    """in which a clip must be answered once it has come"""
    api_keys: tuple[str, ...] = ()
    """one of them must come with what is asked of the model; none: everybody may ask"""
    cors_origins: tuple[str, ...] = ()
    """pages of other servers that may ask from a browser; "*" for all"""
    allow_urls: bool = False
    """fetch pictures from addresses that clients name"""
    page: bool = True
    """show a page at /"""

    def __post_init__(self):
        least = {"wait": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and value < (low := least.get(field.name, 1e-9)):
                raise ConfigError(
                    f"service: {field.name} is {value}, expected "
                    f"{'at least 0' if not low else 'more than 0'}"
                )
        if self.batch_size > self.queue or self.max_pictures > self.queue:
            raise ConfigError(
                f"service: a queue of {self.queue} pictures cannot hold a batch of "
                f"{self.batch_size} or a list of {self.max_pictures}; make the queue longer or "
                "those smaller"
            )
        if any(len(key) < 8 for key in self.api_keys):
            raise ConfigError("service: an API key has fewer than 8 characters; take a longer one")
