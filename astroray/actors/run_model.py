"""With which model, numbers and attention the stored embeddings of a run were computed."""

import dataclasses
from typing import TYPE_CHECKING, cast

from astroray.encoders import PLAIN_ATTENTION, AttentionName, QuantizeName
from astroray.errors import BackendError, ConfigError, LedgerError
from astroray.run_files import model_file
from astroray.run_record import RunRecord

if TYPE_CHECKING:
    from astroray.actors.encode import BatchEncoder

__all__ = ["RunModel", "model_of_run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunModel:
    """What whatever is compared with a run's embeddings has to be encoded with.

    Small, so that it travels with an upload. Neither numbers nor attention is `auto` where the
    record says what that became.
    """

    path: str
    """The model's file."""
    model_id: str
    quantize: QuantizeName = "none"
    attention: AttentionName = "auto"

    @property
    def numbers(self) -> str:
        """What the embeddings are computed in, in a word: float32, or as `encoder.quantize`."""
        return "float32" if self.quantize == "none" else self.quantize

    @property
    def is_plain(self) -> bool:
        """Whether every machine can compute so."""
        return self.quantize == "none" and self.attention in PLAIN_ATTENTION

    def start(self, *, batch_size: int, device: str, num_threads: int) -> "BatchEncoder":
        """The model, loaded on a device and ready for rows.

        Raises BackendError where this machine cannot compute in these numbers, LedgerError where
        the file holds another model, ConfigError where it is missing or damaged.
        """
        from astroray.actors.encode import BatchEncoder  # loads torch

        try:
            encoder = BatchEncoder(
                model_path=self.path,
                batch_size=batch_size,
                device=device,
                num_threads=num_threads,
                attention=self.attention,
                quantize=self.quantize,
            )
        except (BackendError, ConfigError) as error:
            raise self._refusal(error, device) from error
        if encoder.model.model_id != self.model_id:
            raise LedgerError(
                f"{self.path} holds model {encoder.model.model_id}, expected {self.model_id}, "
                "which made the run's embeddings; restore that file, or scan into a new --out"
            )
        return encoder

    def _refusal(self, error: BackendError | ConfigError, device: str) -> Exception:
        """The error, with what it was raised for where the numbers or the attention matter."""
        if self.is_plain:
            return error
        return BackendError(
            f"what is compared with the embeddings of {self.path} has to be encoded as they were, "
            f"in {self.numbers} with attention {self.attention}, which cannot be done on {device} "
            f"here: {error}. Use a machine and device like those of the scan, or scan the survey "
            "into a new --out with encoder.quantize none"
        )


def model_of_run(run_dir: str, record: RunRecord) -> RunModel:
    """The model of a run, with the numbers and the attention that its record says it had.

    Kernels do not count: what a scan computed with Triton is computed natively here.
    """
    asked = str(record.config.get("encoder", {}).get("attention", "auto"))
    numbers = (record.backends.fewer_bits or "none").split()[0]
    attention = (record.backends.attention or asked).split()
    name = "vfa-int8-qk" if attention[-1] == "int8_qk" else attention[0]
    return RunModel(
        path=model_file(run_dir),
        model_id=record.fitted.model_id,
        quantize=cast(QuantizeName, numbers),
        attention=cast(AttentionName, name),
    )
