"""Which encoders there are, and what a model file says of itself without loading torch.

A model is one safetensors file: how cutouts are prepared, the network's weights, and the frozen
frame (center, scale, live dimensions) that its embeddings are given in. Its `model_id` is a hash
of all of that, so equal ids mean equal embeddings. `encoders.store` saves and loads it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import safetensors

from astroray import storage
from astroray.encoders.recipe import Recipe
from astroray.errors import ConfigError, FileError
from astroray.preparation.modalities import MODALITIES, AnyPreparation
from astroray.run_files import model_file
from astroray.run_record import ModelRef, QuantizedRef
from astroray.surveys.shards import ModalityName

__all__ = [
    "AUTO",
    "ENCODERS",
    "KINDS",
    "OF_BATCH",
    "PLAIN_ATTENTION",
    "PLAIN_NUMBERS",
    "PROGRAMS",
    "AttentionName",
    "EncoderKind",
    "ModelFile",
    "QuantizeName",
    "can_choose_attention",
    "choose_encoder",
    "content_id",
    "fixed_numbers",
    "is_onnx_file",
    "is_own",
    "kind_of",
    "read_metadata",
    "read_model_file",
    "unknown_encoder",
]

FORMAT_VERSION = 1
AUTO = "auto"
"""Name that stands for the default encoder of what a survey holds."""

AttentionName = Literal["auto", "sdpa", "vfa", "vfa-int8-qk", "vsa"]
"""What `encoder.attention` may be; `encoders.attention` says what each means."""
PLAIN_ATTENTION = ("auto", "sdpa")
"""Those that are PyTorch's own on every machine, so that nothing has to be resolved."""

QuantizeName = Literal[
    "none", "auto", "bf16", "torch-int8", "w8a8", "w8a8o", "osc-w4a4", "osc-mxfp4", "osc-nvfp4"
]
"""What `encoder.quantize` may be; `encoders.selecting` says what each means."""
PLAIN_NUMBERS = ("none", "auto", "bf16", "torch-int8")
"""Those that need no quantized layers in the model file."""
OF_BATCH = ("torch-int8",)
"""Those that round activations by the largest of a whole batch, so that rows depend on others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderKind:
    """What the store knows of a network by name."""

    network: str
    """`module:Class` below astroray.encoders; constructed with keyword numbers only."""
    fit: str
    """none: nothing to learn; pca: closed form; network: gradient descent by Ray Train."""
    standardize: bool = False
    """Whether the frame divides each dimension by its standard deviation."""
    size_px: int | None = None
    """Default edge of the prepared square; None: the survey's own up to 64."""
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    """How gradient descent goes, where there is any."""
    modality: ModalityName = "images"
    """What it encodes."""
    has_attention: bool = False
    """Whether it is a transformer, whose attention can be chosen."""
    has_latent: bool = True
    """Whether the length of the embedding can be chosen."""
    weights: str | None = None
    """File below astroray.encoders with weights that come with astroray."""

    def is_descended(self, *, pretrained: bool = True) -> bool:
        """Whether a fit is gradient descent: not where the weights come with astroray."""
        return self.fit == "network" and not (pretrained and self.weights)


VIT_RECIPE = Recipe(
    betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=100, clip_norm=1.0, average=0.995
)

ENCODERS: Mapping[str, EncoderKind] = {
    "pixels": EncoderKind(network="pixels:Pixels", fit="none", has_latent=False),
    "pca": EncoderKind(network="pca:Pca", fit="pca"),
    "rings": EncoderKind(network="rings:Rings", fit="pca"),
    "rings-fine": EncoderKind(network="rings:FineRings", fit="pca"),
    "cae": EncoderKind(network="cae:Cae", fit="network", standardize=True),
    "attcae": EncoderKind(network="attcae:AttCae", fit="network", standardize=True),
    "vit-tiny": EncoderKind(
        network="vit:VitTiny",
        fit="network",
        recipe=VIT_RECIPE,
        has_attention=True,
        has_latent=False,
        weights="vit-tiny.safetensors",
    ),
    "vit-small": EncoderKind(
        network="vit:VitSmall",
        fit="network",
        recipe=VIT_RECIPE,
        has_attention=True,
        has_latent=False,
    ),
    "waves": EncoderKind(network="waves:Waves", fit="pca", modality="light_curves"),
    "lc-pca": EncoderKind(network="pca:FluxPca", fit="pca", modality="light_curves"),
    "lc-tiny": EncoderKind(
        network="light_curve:LightCurveTiny",
        fit="network",
        recipe=VIT_RECIPE,
        modality="light_curves",
        has_attention=True,
        has_latent=False,
    ),
    "lines": EncoderKind(network="lines:Lines", fit="pca", modality="spectra"),
    "spec-pca": EncoderKind(network="pca:FluxPca", fit="pca", modality="spectra"),
}
"""Every encoder by name. A new one is a file in this folder and a line here."""

PROGRAMS: Mapping[ModalityName, str] = {
    "images": "onnx",
    "light_curves": "onnx-light-curves",
    "spectra": "onnx-spectra",
}
"""What a model file calls a network that came as an ONNX file, which has a path and no name."""

KINDS: Mapping[str, EncoderKind] = {
    **ENCODERS,
    **{
        name: EncoderKind(
            network="onnx_network:OnnxNetwork",
            fit="none",
            modality=modality,
            has_latent=False,
        )
        for modality, name in PROGRAMS.items()
    },
}
"""Every encoder of astroray's that a model file may hold; see `kind_of`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model file as it was read, its id checked against its content."""

    encoder: str
    modality: ModalityName
    """What it encodes."""
    preparation: AnyPreparation
    network_config: Mapping[str, Any]
    dim: int
    """Length of an embedding."""
    fit: Mapping[str, Any]
    """How it was fitted: passes, seconds, loss, rows; part of the record, not of the id."""
    model_id: str
    data: bytes
    quantized: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of a quantized model: `choice`, `attention`, `reference_id`, `schemes`; else empty."""

    code: str = ""
    """Hash of the code of a class of the user's own; else empty."""

    def check_modality(self, modality: ModalityName) -> None:
        """Raises ConfigError where it encodes something else; a class of somebody's own is not
        loaded for it.
        """
        _check_modality(self.encoder, self.modality, modality)

    def describe(self) -> ModelRef:
        """What a run record says of the model."""
        known = {name: value for name, value in self.quantized.items() if name != "schemes"}
        facts = self.preparation.describe()
        return ModelRef(
            model_id=self.model_id,
            quantized=QuantizedRef(**known) if known else None,
            encoder=self.encoder,
            modality=self.modality,
            dim=self.dim,
            input=facts.pop("input"),
            preparation=facts,
            fit=self.fit,
        )


def read_model_file(path: str) -> ModelFile:
    """A model file, checked; of a run directory the model of the run.

    Raises ConfigError where the file is no model, is damaged, or is of another format version.
    """
    try:
        data = _read_file(path)
        shapes = {name: tensor["shape"] for name, tensor in _tensors(data)}
    except FileError:
        is_name = path in ENCODERS or is_own(path)
        raise _not_fitted(path) if is_name else unknown_encoder(path) from None
    except safetensors.SafetensorError as error:
        if is_onnx_file(path):
            raise _not_fitted(path) from None
        raise ConfigError(f"{path} is not a model file: {error}; fit one with a scan") from None
    metadata = read_metadata(data)
    if "astroray" not in metadata:
        raise ConfigError(f"{path} is a safetensors file but no astroray model; fit one by a scan")
    meaning = json.loads(metadata["astroray"])
    if meaning["format_version"] != FORMAT_VERSION:
        raise ConfigError(
            f"{path} has model format {meaning['format_version']}, expected {FORMAT_VERSION}; "
            "fit it again with this version of astroray"
        )
    model_id = content_id(metadata["astroray"], data)
    if model_id != metadata["model_id"]:
        raise ConfigError(
            f"{path} is damaged: its content has id {model_id}, expected {metadata['model_id']}; "
            "restore it or fit again"
        )
    encoder = meaning["encoder"]
    # of a class of somebody's own the file says it, so that no code of theirs is loaded to read it
    name: ModalityName = meaning["own"]["modality"] if is_own(encoder) else KINDS[encoder].modality
    return ModelFile(
        encoder=encoder,
        modality=name,
        preparation=MODALITIES[name].preparation.from_json(meaning["preparation"]),
        network_config=meaning["network"],
        dim=shapes["frame.live"][0],
        fit=json.loads(metadata["fit"]),
        model_id=model_id,
        data=data,
        quantized=meaning.get("quantized", {}),
        code=meaning.get("own", {}).get("code", ""),
    )


def _read_file(path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except FileError:
        of_run = model_file(path)
        if not storage.exists(of_run):
            raise
        return storage.read_bytes(of_run)


def choose_encoder(name: str, modality: ModalityName) -> str:
    """The encoder of that name for rows of a modality; AUTO is the modality's own.

    The path of an ONNX file is one of PROGRAMS.

    Raises ConfigError where the encoder eats something else, or there is none of that name.
    """
    if name == AUTO:
        return MODALITIES[modality].default_encoder
    name = PROGRAMS[modality] if is_onnx_file(name) else name
    _check_modality(name, kind_of(name).modality, modality)
    return name


def _check_modality(name: str, taken: ModalityName, modality: ModalityName) -> None:
    if taken != modality:
        suited = sorted(known for known, kind in ENCODERS.items() if kind.modality == modality)
        raise ConfigError(
            f"encoder {name} takes {_words(taken)}, the survey has {_words(modality)}, expected "
            f"one of {suited} or the path of a model file"
        )


def kind_of(name: str) -> EncoderKind:
    """What is known of an encoder, a class of the user's own too, whose module is then imported.

    Raises ConfigError where there is none of that name.
    """
    if is_own(name):
        from astroray.encoders.own import own_kind

        return own_kind(name)
    if name not in KINDS:
        raise unknown_encoder(name)
    return KINDS[name]


def can_choose_attention(name: str) -> bool:
    """Whether it is a transformer of astroray's; a class of the user's own is not loaded."""
    return not is_own(name) and kind_of(name).has_attention


def is_own(name: str) -> bool:
    """Whether an encoder is a class of the user's own, `module:Class`."""
    module, _, attribute = name.partition(":")
    parts = [*module.split("."), attribute]
    return all(part.isidentifier() for part in parts) and module not in ENCODERS


def is_onnx_file(name: str) -> bool:
    """Whether an encoder is named by the path of an ONNX file."""
    return name.lower().endswith(".onnx")


def fixed_numbers(asked: QuantizeName) -> ConfigError:
    """The error for an ONNX program that is asked to compute with other numbers."""
    return ConfigError(
        f"encoder.quantize is {asked}, but the model is an ONNX program, which computes as it was "
        "exported; leave encoder.quantize out"
    )


def _words(modality: ModalityName) -> str:
    return MODALITIES[modality].nouns


def content_id(meaning: str, data: bytes) -> str:
    """The model_id: a hash of what the model means and of its tensors, whatever their order."""
    digest = hashlib.sha256(meaning.encode())
    for name, tensor in sorted(_tensors(data), key=lambda item: item[0]):
        digest.update(f"{name} {tensor['dtype']} {tuple(tensor['shape'])}".encode())
        digest.update(tensor["data"])
    return digest.hexdigest()[:16]


def _not_fitted(name: str) -> ConfigError:
    """The error for a name or program of an encoder where a model file is wanted."""
    kind = "an ONNX program" if is_onnx_file(name) else "the name of an encoder"
    return ConfigError(
        f"{name} is {kind}, expected a model file or a run: one that holds how a "
        f"survey is prepared; scan with it first (astroray scan SURVEY --encoder {name} --out RUN) "
        "and name RUN here"
    )


def unknown_encoder(name: str) -> ConfigError:
    """The error for an encoder that is neither a name nor a model file."""
    if "/" in name or name.endswith(".safetensors"):
        return ConfigError(
            f"encoder is the path {name}, where there is neither a model file (.safetensors), nor "
            "a run that has one, nor an ONNX file (.onnx); check the path"
        )
    module, _, attribute = name.rpartition(".")
    is_dotted = attribute[:1].isupper() and is_own(f"{module}:{attribute}")
    return ConfigError(
        f"encoder is {name!r}, expected one of {sorted(ENCODERS)} or the path of a model file "
        "(model.safetensors), of a run that has one, or of an ONNX file (.onnx), or a class of "
        "your own (module:Class)" + (f"; did you mean {module}:{attribute}?" if is_dotted else "")
    )


def _tensors(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Name, dtype, shape and bytes of each tensor."""
    tensors: list[tuple[str, dict[str, Any]]]
    tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    return tensors


def read_metadata(data: bytes) -> dict[str, str]:
    """The text fields of a safetensors header: its length in 8 bytes, then JSON."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return metadata
