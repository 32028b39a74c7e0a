"""Writing and reading back mp4 files that any browser plays: H.264, yuv420p, playable before they are fully loaded.

ffmpeg is the binary that imageio-ffmpeg brings (``$IMAGEIO_FFMPEG_EXE`` names another). The same frames give the same
bytes: one thread, no dates, no encoder's banner. Importing this module is light.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

CODEC = "h264"
PIXEL_FORMAT = "yuv420p"
_BLANK_STD = 2.0
"""Standard deviation of grey levels (0-255) of a frame, below which nothing is to be seen there."""


class VideoError(RuntimeError):
    """A video that cannot be written or read, or an episode that cannot be shown."""


@dataclass(frozen=True)
class Mp4Info:
    """What decoding every frame of an mp4 shows.

    Attributes
    ----------
    codec, pixel_format : as ffmpeg names them.
    width_px, height_px, fps, frames : of the video stream; ``duration_s`` is frames / fps.
    faststart : whether the index stands before the pictures, so that a browser can play and seek while it loads.
    not_blank : whether something is to be seen in every frame.
    """

    codec: str
    pixel_format: str
    width_px: int
    height_px: int
    fps: float
    frames: int
    duration_s: float
    faststart: bool
    not_blank: bool

    @property
    def plays_in_browsers(self) -> bool:
        """H.264 in yuv420p with its index first."""
        return (self.codec, self.pixel_format, self.faststart) == (CODEC, PIXEL_FORMAT, True)


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write frames ``[height, width, 3]`` uint8 RGB as an mp4, which appears whole or not at all; returns their number.

    Raises
    ------
    VideoError
        For no frames, frames of odd or differing sizes, or when ffmpeg fails (with the end of what it said).
    """
    draft = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        n_frames = _encode(draft, frames, fps)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return n_frames


def _encode(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise VideoError(f"found no frames for {path}, expected at least one")
    shape = first.shape
    if len(shape) != 3 or shape[2] != 3 or shape[0] % 2 or shape[1] % 2 or first.dtype != np.uint8:
        raise VideoError(f"found frames {shape} {first.dtype}, expected [height, width, 3] uint8 with even sizes")
    with tempfile.TemporaryFile() as said:
        command = _encode_command(path, shape, fps)
        try:
            encoder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        except OSError as error:
            raise VideoError(f"cannot run ffmpeg: {error}; $IMAGEIO_FFMPEG_EXE or imageio-ffmpeg names it") from error
        assert encoder.stdin is not None
        n_frames = 0
        try:
            for frame in _chain(first, frames):
                if frame.shape != shape or frame.dtype != np.uint8:
                    raise VideoError(f"found frame {n_frames} {frame.shape} {frame.dtype}, expected {shape} uint8")
                encoder.stdin.write(np.ascontiguousarray(frame).data)
                n_frames += 1
            encoder.stdin.close()
        except BrokenPipeError:  # ffmpeg ended early: what it said tells why
            pass
        except BaseException:  # also when interrupted: an encoder without its writer would wait for ever
            encoder.kill()
            raise
        finally:
            status = encoder.wait()
        if status:
            said.seek(0)
            raise VideoError(f"ffmpeg ended with status {status} after {n_frames} frames: {_end(said.read())}")
    return n_frames


def _chain(first: np.ndarray, rest: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    yield first
    yield from rest


def _encode_command(path: Path, shape: tuple[int, ...], fps: float) -> list[str]:
    rate = str(Fraction(fps).limit_denominator(1000))
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}", "-r", rate, "-i", "pipe:0"]
    # Colours are tagged: players guess differently where they are not. A key frame a second makes seeking exact.
    colours = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p", "-colorspace", "bt709"]
    colours += ["-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    codec = ["-c:v", "libx264", "-preset", "fast", "-crf", "20", "-g", str(max(round(fps), 1)), "-threads", "1"]
    same_bytes = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
    written = ["-movflags", "+faststart", "-f", "mp4", str(path)]
    return [_ffmpeg(), "-v", "error", "-nostdin", "-y", *source, "-an", *colours, *codec, *same_bytes, *written]


def _ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise VideoError(f"found no ffmpeg: {error}; imageio-ffmpeg's wheel brings one") from error


def _end(said: bytes) -> str:
    return said.decode(errors="replace")[-500:].strip() or "it said nothing"


def probe_mp4(path: Path, caption_px: int = 0) -> Mp4Info:
    """Decode all of an mp4 and say what is in it; captions of ``caption_px`` on top do not count as something seen.

    Raises
    ------
    VideoError
        When it cannot be decoded.
    """
    import imageio_ffmpeg

    _ffmpeg()
    reader = imageio_ffmpeg.read_frames(str(path), pix_fmt="gray", bits_per_pixel=8)
    try:
        meta = next(reader)
        width, height = meta["source_size"]
        contrasts = [_contrast(frame, height, width, caption_px) for frame in reader]
    except (OSError, RuntimeError, StopIteration) as error:
        raise VideoError(f"{path} cannot be decoded: {str(error)[-500:].strip()}") from error
    finally:
        reader.close()
    return Mp4Info(
        codec=meta["codec"],
        pixel_format=meta["pix_fmt"].split("(")[0],
        width_px=width,
        height_px=height,
        fps=meta["fps"],
        frames=len(contrasts),
        duration_s=len(contrasts) / meta["fps"],
        faststart=_faststart(path),
        not_blank=bool(contrasts) and min(contrasts) >= _BLANK_STD,
    )


def _contrast(frame: bytes, height: int, width: int, caption_px: int) -> float:
    return float(np.frombuffer(frame, dtype=np.uint8).reshape(height, width)[caption_px:].std())


def _faststart(path: Path) -> bool:
    """Whether the box `moov` stands before `mdat` (ISO/IEC 14496-12: size and type open each box)."""
    with path.open("rb") as stream:
        while len(head := stream.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in {b"moov", b"mdat"}:
                return kind == b"moov"
            if size < 8:  # 64-bit sizes and "to the end" do not occur before the pictures
                return False
            stream.seek(size - 8, os.SEEK_CUR)
    return False
