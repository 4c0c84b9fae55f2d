"""Limits of a server, and the errors for requests that exceed them."""

import contextlib
import dataclasses
from collections.abc import Iterator

_BODIES = 8  # number of bodies of the largest size that are held at once


class RequestError(Exception):
    """A request is not answered; `status` is the HTTP status code, the message says what is wrong and what was expected."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server, each with the status of a request that exceeds it.

    Attributes:
      body_bytes: size of a request's body (413).
      pixels: pixels of an image (413); at most Pillow's `Image.MAX_IMAGE_PIXELS`.
      images: images in a request (413).
      queue: images of all requests that are being read or decoded or wait for their answer (429).
      seconds: time for a request's body (408), and from then on for its answer (504).
      connections: open connections (503).
    """

    body_bytes: int = 16 * 2**20
    pixels: int = 50_000_000
    images: int = 64
    queue: int = 512
    seconds: float = 30.0
    connections: int = 1000


class Admission:
    """Counts images and bytes in progress, so that memory is bounded whatever the clients send.

    Attributes:
      images: number of images in progress; a request counts as one image until its number of images is known.
      answered, refused: number of requests so far.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._bytes = 0
        self.images = self.answered = self.refused = 0

    @contextlib.contextmanager
    def request(self) -> Iterator['Admitted']:
        """Admits a request until the end of the context.

        Raises:
          RequestError: 429, too much is in progress.
        """
        admitted = Admitted(self)
        try:
            admitted.add_images(1)
            yield admitted
        except BaseException:
            self.refused += 1
            raise
        else:
            self.answered += 1
        finally:
            self.images -= admitted.images
            self._bytes -= admitted.bytes

    def add(self, images: int, size: int) -> None:
        """Counts images and bytes as in progress; raises RequestError, 429, if there are too many."""
        if self.images + images > self._limits.queue or self._bytes + size > _BODIES * self._limits.body_bytes:
            raise RequestError(429, f'{self.images} images are in progress; expected fewer requests at once: try again later')
        self.images += images
        self._bytes += size


class Admitted:
    """The images and bytes of one request in progress."""

    def __init__(self, admission: Admission):
        self._admission = admission
        self.images = self.bytes = 0

    def add_images(self, count: int) -> None:
        """Raises RequestError: 429, too many images are in progress."""
        self._admission.add(count, 0)
        self.images += count

    def add_bytes(self, count: int) -> None:
        """Raises RequestError: 429, too many bytes are in progress."""
        self._admission.add(0, count)
        self.bytes += count
