"""Programs and metrics that are code of an installed package or of a bundle, named `package.module:name`: allowed, imported, called.

With `allowed` a list, only packages of that list are imported: a server runs what others ask for. With None, in a user's own process, an
artifact may name code too, and then only what can do no more than make a program: a dspy.Module class, or a function annotated to return
one. `bundle` is the digest of one that was unpacked in this process: then its own code alone is named, and in a user's own process, which
unpacks none, the modules as they are there.
"""

import functools
import hashlib
import importlib
import inspect
import logging
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

import dspy

from stillhouse_programs.bundles import UNPACKED, is_pickle
from stillhouse_programs.signatures import metric_fault
from stillhouse_programs.spec_metrics import ReferenceMetric
from stillhouse_programs.spec_models import ProgramReference
from stillhouse_programs.spec_reference import ReferenceFault, check_allowed, lies_in, split_target

logger = logging.getLogger(__name__)

Allowed = Sequence[str] | None
_MAX_MESSAGE = 500
_NAMED = 8
# An absolute path up to its last part: in quotes it may hold blanks; else it begins a word, as the slashes of "1/2" and of a URL do not.
_FOLDERS = re.compile(
    r"""(?<=['"])(?:[A-Za-z]:)?[\\/](?:[^'"\\/]+[\\/])*(?=[^'"\\/])"""
    r"""|(?<![^\s(<=,])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'"()<>:,]+[\\/])*(?=[^\s\\/'"()<>:,])"""
)


# ------------------------------------------------------------------ programs


def make_program(target: str, kwargs: Mapping[str, Any], allowed: Allowed, bundle: str = "") -> dspy.Module:
    """Import `target` and call it. Raises ReferenceFault when it is not allowed, not there, fails, or makes no new program."""
    maker = _find(target, allowed, bundle)
    if kwargs and bundle and is_pickle(target):
        raise _failed(f"{target} was made already, and takes no keyword arguments", "reference.kwargs")
    if allowed is None and not _makes_programs(maker):
        message = f"{target} is neither a dspy.Module class nor a function annotated to return one, so it is not called here"
        raise ReferenceFault("reference_not_allowed", message, "reference.target")
    program = _call(target, maker, kwargs, bundle)
    if not isinstance(program, dspy.Module):
        raise _failed(f"{target} made a {type(program).__name__}, not a dspy.Module")
    predictors = [predictor for _, predictor in program.named_predictors()]
    if not predictors:
        raise _failed(f"{target} made a program without predictors")
    if any(predictor in _made for predictor in predictors):
        raise _failed(f"{target} gave the same predictors twice; it must make a new program at each call")
    _made.update(predictors)
    return program


# Predictors of programs that were handed out: each of those has LMs and tags of its own.
_made: WeakSet[dspy.Predict] = WeakSet()


def check_source(reference: ProgramReference | ReferenceMetric, target: str, allowed: Allowed) -> None:
    """Hold the imported code against the one that was described. Raises ReferenceFault; in a user's own process it is a warning."""
    now = source_of(target)
    changed = [name for name, digest in reference.source.items() if now.get(name) != digest]
    if not changed:
        return
    message = f"{target}: the source of {', '.join(changed[:3])} is not the one that was described"
    if allowed is None:
        logger.warning("%s; what it does may differ from what was compiled", message)
        return
    advice = "store the program again (POST /v1/programs) and use the new one"
    if isinstance(reference, ReferenceMetric):
        advice = "make a new job, which asks the metric as it is now"
    raise ReferenceFault("source_changed", f"{message}; {advice}", "reference.source")


# ------------------------------------------------------------------ metrics


def make_reference_metric(metric: ReferenceMetric, allowed: Allowed) -> Callable[..., Any]:
    """The metric that a reference names. Raises ReferenceFault.

    Two required arguments are left beside `kwargs`: it is the metric, and `kwargs` go into every call. None is left: it makes the metric.
    """
    found = _find(metric.reference, allowed, metric.bundle)
    left = _required(metric.reference, found, metric.kwargs)
    made = _call(metric.reference, found, metric.kwargs, metric.bundle) if left == 0 else functools.partial(found, **metric.kwargs)
    if left not in (0, 2, 3) or not callable(made):
        raise _failed(f"{metric.reference} is no function of (example, prediction, trace), and makes none", "metric.reference")
    if (fault := metric_fault(made)) is not None:
        raise _failed(f"{metric.reference}: {fault}", "metric.reference")
    if metric.source:
        check_source(metric, metric.reference, allowed)
    return made


def _required(target: str, found: Callable[..., Any], kwargs: Mapping[str, Any]) -> int:
    """How many arguments a call with `kwargs` still needs. Raises ReferenceFault for keyword arguments that it does not take."""
    try:
        signature = inspect.signature(found)
        signature.bind_partial(**kwargs)
    except (TypeError, ValueError) as error:
        raise _failed(f"{target}: {error}", "metric.kwargs") from None
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = signature.parameters.values()
    return sum(each.default is each.empty and each.name not in kwargs and each.kind in plain for each in parameters)


# ------------------------------------------------------------------ importing and calling


def _find(target: str, allowed: Allowed, bundle: str) -> Callable[..., Any]:
    """The class or function, which must be of the named package itself: not one that the package has only imported."""
    if bundle and allowed is not None:
        return _find_in_bundle(target, bundle)
    if bundle and is_pickle(target):
        message = f"{target} was sent by value, and is made nowhere but on the server"
        raise ReferenceFault("reference_not_found", message, "reference.target")
    if allowed is not None:
        check_allowed(target, allowed)
    name, path = split_target(target)
    found = _attribute(_import(name), path)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise _failed(f"{target} is a {type(found).__name__}, not a class or function")
    home = getattr(found, "__module__", None) or ""
    if not lies_in(home, [_package(name)] if allowed is None else allowed):
        message = f"{target} comes from {home or 'elsewhere'}, not from the package that is named"
        raise ReferenceFault("reference_not_allowed", message, "reference.target")
    return typing.cast("Callable[..., Any]", found)


def _find_in_bundle(target: str, bundle: str) -> Callable[..., Any]:
    """Anything that can be called: whoever sent the bundle may run all of it."""
    unpacked = UNPACKED.get(bundle)
    if is_pickle(target):
        try:
            found = unpacked.named(target)
        except ReferenceFault:
            raise
        except BaseException as error:
            raise _raised(target, error, bundle) from None
    else:
        name, path = split_target(target)
        if not lies_in(name, unpacked.tops):
            raise ReferenceFault("reference_not_found", _no_module(name, bundle), "reference.target")
        found = _attribute(_import(name, bundle), path)
    if not callable(found):
        raise _failed(f"{target} is a {type(found).__name__}, which cannot be called")
    return found


def _no_module(name: str, bundle: str) -> str:
    modules = UNPACKED.get(bundle).bundle.modules
    more = f" and {len(modules) - _NAMED} more" if len(modules) > _NAMED else ""
    return f"the bundle has no module {name} (there are: {', '.join(modules[:_NAMED]) or 'none'}{more})"


def _attribute(module: ModuleType, path: Sequence[str]) -> Any:
    found: Any = module
    for part in path:
        found = getattr(found, part, None)
    if found is None:
        raise ReferenceFault("reference_not_found", f"module {module.__name__} has no `{'.'.join(path)}`", "reference.target")
    return found


def _makes_programs(maker: Any) -> bool:
    try:
        made = maker if inspect.isclass(maker) else typing.get_type_hints(maker).get("return")
    except (NameError, TypeError):
        return False
    return inspect.isclass(made) and issubclass(made, dspy.Module)


def _import(name: str, bundle: str = "") -> ModuleType:
    _drop_if_changed(_package(name))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and lies_in(name, [error.name]):
            what = _no_module(name, bundle) if bundle else f"{name} is not installed where programs run"
            raise ReferenceFault("reference_not_found", what, "reference.target") from None
        raise _raised(f"importing {name}", error, bundle) from None
    except BaseException as error:  # SystemExit of a module that is a script, too
        raise _raised(f"importing {name}", error, bundle) from None
    finally:
        _note_modules(_package(name))


def _call(target: str, maker: Callable[..., Any], kwargs: Mapping[str, Any], bundle: str) -> Any:
    try:
        return maker(**kwargs)
    except BaseException as error:
        raise _raised(target, error, bundle) from None
    finally:
        _note_modules(_package(target))


def described(error: BaseException) -> str:
    """Type and message of an exception, without folders."""
    text = _FOLDERS.sub("", str(error))[:_MAX_MESSAGE]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _raised(what: str, error: BaseException, bundle: str) -> ReferenceFault:
    """That a bundle lacks a package is said in words of its own: its sender may not know what the server has."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if bundle in UNPACKED and isinstance(missing, str) and not lies_in(missing, UNPACKED.get(bundle).tops):
        name = missing.partition(".")[0]
        message = (
            f"{what} needs {name}, which is neither in the bundle nor installed where programs run: send it along where it is yours; "
            "else the server's operator can install it"
        )
        return ReferenceFault("package_not_installed", message, "bundle")
    return _failed(f"{what} raised {described(error)}")


def _failed(message: str, param: str = "reference") -> ReferenceFault:
    return ReferenceFault("reference_failed", message, param)


# ------------------------------------------------------------------ the source of what is imported

# Per module: the module itself, its file, and the SHA-256 of that file when the module was imported.
_noted: dict[str, tuple[ModuleType, Path, str]] = {}


def source_of(target: str) -> dict[str, str]:
    """SHA-256 of the file of every module of the target's package, by name, as they were when they were imported."""
    package = _package(target)
    _note_modules(package)
    return {name: digest for name, (_, _, digest) in sorted(_noted.items()) if lies_in(name, [package])}


def forget(target: str) -> None:
    """Have the target's package imported anew: then `source_of` names what it imports, and not what others have imported of it."""
    package = _package(target)
    for name in [name for name in sys.modules if lies_in(name, [package])]:
        del sys.modules[name]
    for name in [name for name in _noted if lies_in(name, [package])]:
        del _noted[name]
    importlib.invalidate_caches()


def _package(target: str) -> str:
    return target.partition(":")[0].partition(".")[0]


def _note_modules(package: str) -> None:
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not lies_in(name, [package]) or file is None or (name in _noted and _noted[name][0] is module):
            continue
        _noted[name] = (module, Path(file), _file_digest(Path(file)))


def _drop_if_changed(package: str) -> None:
    """A package that was upgraded under a running process is imported anew; programs that were made before keep the old code."""
    noted = [(file, digest) for name, (_, file, digest) in _noted.items() if lies_in(name, [package])]
    if any(_file_digest(file) != digest for file, digest in noted):
        forget(package)


def _file_digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return "missing"
