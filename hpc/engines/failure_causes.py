"""The cause of a model server's failure, from its exit status and the end of its log.

Only a server that failed has a cause, and only lines with errors are searched: the log of a
healthy server is full of warnings that name errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.engines.common import memory_mb

if TYPE_CHECKING:
    from hpc.model import ServiceSpec

FOUND_SHOWN = 200
CHATTER = re.compile(r"\b(?:WARNING|INFO|DEBUG|TRACE)\b|\w*Warning:")
LAST_ERROR = re.compile(r"^(?:.*\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.MULTILINE)
EMPTY_ERROR = re.compile(r"Engine core initialization failed|ChildProcessError")


@dataclass(frozen=True, slots=True)
class CauseRule:
    """A log pattern of a known failure, and the sentence that explains the failure.

    Attributes:
        pattern: words of the server; the first group is the thing at fault.
        sentence: explanation for the user; ``{found}`` is that group, other fields see ``explain``.
    """

    pattern: re.Pattern[str]
    sentence: str


def _rule(pattern: str, sentence: str) -> CauseRule:
    return CauseRule(re.compile(pattern), sentence)


# The first match wins. So a rule for a root cause stands before the rules for its consequences.
RULES = (
    # Apptainer
    _rule(
        r"could not open image \S+: .*no such file or directory",
        "the image {image} is missing on the node",
    ),
    _rule(
        r"image format not recognized|trying to read the squashfs image"
        r"|FATAL: .*(?:corrupt|not a valid|invalid magic|input/output error)",
        "the image {image} is no container image, or damaged",
    ),
    _rule(
        r'FATAL: +"([^"]+)": executable file not found',
        "the image {image} has no program {found}",
    ),
    _rule(
        r"FATAL: .*mount (?:source|hook function failure).*?(?:source |mount )?(/\S+?)"
        r"(?:->\S+)? .*(?:no such file|doesn't exist|not exist)",
        "the path {found} that the container is to see is missing on the node",
    ),
    _rule(
        r"FATAL: .*(?:user namespace|fakeroot|squashfuse|setuid)",
        "Apptainer cannot open images on this node: user namespaces or FUSE are not allowed",
    ),
    _rule(
        r"unknown flag: (--no-eval|--mount|--no-mount)",
        "the container program of the node has no option {found}: Apptainer 1.1, SingularityCE"
        " 3.10, or a later one is needed",
    ),
    _rule(
        r"FATAL: +(?:Unable to handle \S+ uri|While (?:making image from oci registry|pulling)"
        r"[^:]*): *(.*)",
        "the image {image} could not be fetched on the node: {found}",
    ),
    # Missing packages and wrong options
    _rule(
        r"No module named '?(vllm|llama_cpp|fastapi|uvicorn|prometheus_client|huggingface_hub)",
        "the Python package {found} is not installed for the engine",
    ),
    _rule(
        r"(?:unrecognized arguments|invalid argument|unknown argument): (\S+)",
        "the server does not know the option {found} of engine_args",
    ),
    # Memory
    _rule(
        r"(?:CUDA|HIP)(?: error)?:? out of memory|cudaMalloc failed: out of memory"
        r"|unable to allocate (?:CUDA|ROCm|Vulkan)\d* buffer|hipErrorOutOfMemory"
        r"|failed to allocate (?:CUDA|ROCm|Vulkan)\d*\S* buffer|cudaErrorMemoryAllocation",
        "out of GPU memory: the model and its cache do not fit on {gpus} GPU(s)",
    ),
    _rule(
        r"Free memory on device \S+ \(([^)]*)\) on startup is less than",
        "the GPU has too little free memory ({found}): somebody else uses it, or "
        "gpu-memory-utilization is too high",
    ),
    _rule(
        r"Available memory on node \d+ \(([^)]*)\) on startup is less than",
        "the node has too little free memory ({found}) for gpu-memory-utilization",
    ),
    _rule(
        r"KV cache is needed, which is larger than"
        r"|maximum number of tokens that can be stored in KV",
        "the KV cache does not hold one request of max-model-len tokens: lower max-model-len",
    ),
    _rule(
        r"No available memory for the cache blocks",
        "no memory is left for the KV cache once the model is loaded",
    ),
    _rule(
        r"max_model_len \((\d+)\) is greater than the derived",
        "max-model-len {found} is longer than the model's own context",
    ),
    _rule(
        r"Failed core proc\(s\): \{[^}]*: -9\b|oom[-_ ]kill|Out of memory: Killed",
        "out of memory: the engine was killed, most likely for exceeding the job's {memory}",
    ),
    _rule(
        r"[Cc]annot allocate memory|std::bad_alloc|can't allocate memory|^MemoryError"
        r"|ggml_aligned_malloc: insufficient memory|failed to allocate (?:CPU )?buffer",
        "out of memory: the engine could not allocate what it needs within the job's {memory}",
    ),
    # Weights
    _rule(
        r"GatedRepoError|gated repo|Access to model \S+ is restricted",
        "Hugging Face gives {model} only to accounts that accepted its terms: set HF_TOKEN",
    ),
    _rule(
        r"RepositoryNotFoundError|Repository Not Found|is not a valid model identifier",
        "there is no model {model} on Hugging Face, or it is private and HF_TOKEN is not set",
    ),
    _rule(
        r"RevisionNotFoundError|EntryNotFoundError: 404",
        "the model {model} has no such revision or file on Hugging Face",
    ),
    _rule(
        r"401 Client Error|403 Client Error|Invalid credentials|Invalid username or password",
        "Hugging Face refuses the account of HF_TOKEN",
    ),
    _rule(
        r"outgoing traffic has been disabled|OfflineModeIsEnabled|LocalEntryNotFoundError"
        r"|cannot find the requested files in the local cache|We couldn't connect to"
        r"|failed to load model ''"
        r"|Failed to resolve|Name or service not known|Temporary failure in name resolution",
        "the weights of {model} are not in the cache, and the node cannot download them",
    ),
    _rule(
        r"failed to open GGUF file|there is no model file"
        r"|HFValidationError: Repo id must be in the form|Invalid repository ID or local directory",
        "the model {model} is missing on the node",
    ),
    _rule(
        r"invalid magic characters|is not a valid GGUF|SafetensorError|HeaderTooLarge",
        "the model {model} is not in the format that the engine reads",
    ),
    _rule(
        r"model is corrupted or incomplete|not within the file bounds",
        "the model {model} is incomplete: its file was cut short",
    ),
    _rule(
        r"unknown model architecture|Model architectures \[[^\]]*\] are not supported"
        r"|does not recognize this architecture",
        "this version of the engine does not know the architecture of {model}",
    ),
    # GPUs
    _rule(
        r"Found no NVIDIA driver|driver version is insufficient|no CUDA-capable device"
        r"|Failed to infer device type|libcuda\.so\.1: cannot open|No HIP GPUs are available"
        r"|No CUDA GPUs are available|NVML Shared Library Not Found",
        "the engine sees no usable GPU driver on the node",
    ),
    _rule(
        r"no kernel image is available|only supported on GPUs with compute capability"
        r"|requires? (?:a )?(?:GPU|device)s? with (?:compute )?capability|invalid device function",
        "the node's GPU is of a generation that the engine or the model's data type cannot use",
    ),
    # The node
    _rule(
        r"[Aa]ddress already in use|couldn't bind HTTP server socket",
        "the engine's address is already in use on the node",
    ),
    _rule(
        r"No space left on device",
        "no space left on a file system that the engine writes to, perhaps the node's temporary"
        " folder, which 'tmp' moves",
    ),
    _rule(
        r"failed to map segment from shared object",
        "the node runs no programs from its temporary folder (noexec): 'tmp' names another",
    ),
    _rule(r"Disk quota exceeded", "the disk quota is exhausted"),
    _rule(r"Read-only file system: '([^']+)'", "the engine cannot write {found}: it is read-only"),
    _rule(r"Permission denied: '([^']+)'", "the engine may not open {found}"),
)

SIGNALS = {
    9: "out of memory: the engine was killed, most likely for exceeding the job's {memory}",
    4: "the engine was built for another kind of CPU (illegal instruction)",
    11: "the engine crashed (segmentation fault)",
    7: "the engine crashed (bus error): /dev/shm or a file system may be full",
}


def explain(spec: ServiceSpec, returncode: int | None, log_tail: str) -> str | None:
    """Return the cause of a server's end in one sentence, or None if no rule matches.

    Args:
        spec: the service.
        returncode: the server's exit status, negative or 128 + N for signal N; None while running.
        log_tail: the end of the server's log since its start.
    """
    if returncode in (None, 0):
        return None
    lines = [line for line in log_tail.splitlines() if not CHATTER.search(line)]
    said = "\n".join(lines)
    for rule in RULES:
        if match := rule.pattern.search(said):
            return _sentence(rule.sentence, spec, next(filter(None, match.groups()), ""))
    # A signal reads -N from Popen, but 128 + N where a shell or Apptainer stands between.
    number = -returncode if returncode < 0 else returncode - 128
    if number in SIGNALS:
        return _sentence(SIGNALS[number], spec, "")
    return _last_error(said)


def _sentence(text: str, spec: ServiceSpec, found: str) -> str:
    known = memory_mb(spec.resources)
    memory = f"{known} MiB of memory" if known else "memory"
    return text.format(
        found=found[:FOUND_SHOWN],
        image=spec.image,
        model=spec.model,
        gpus=spec.resources.gpus,
        memory=memory,
    )


def _last_error(said: str) -> str | None:
    """Return the last exception in the log, unless the exception only points at another line."""
    named = [text for text in LAST_ERROR.findall(said) if not EMPTY_ERROR.search(text)]
    return f"the engine ended with {named[-1][:FOUND_SHOWN]}" if named else None
