"""Looks at the Python that runs it: version, packages, whether PyTorch works, which devices there are.

Run as a program, also by a Python that is none of ours, so it needs the standard library only and is written for
Python 3.6. Arguments: the folder of the library, then packages as ``name`` or ``name>=1.2``. The last line that it
prints is ``LUNGSEG-PROBE`` and a JSON object.
"""

import importlib
import json
import platform
import re
import sys

MARK = "LUNGSEG-PROBE "

# Where the name to import is another one than the name to install.
IMPORT_NAMES = {"scikit-image": "skimage", "highdicom": "highdicom", "SimpleITK": "SimpleITK"}


def numbers(version):
    """Return the leading numbers of a version, to compare."""
    return [int(part) for part in re.findall(r"\d+", re.split(r"[^0-9.]", version)[0])]


def installed_version(name):
    """Return the version that the package's metadata state; None without."""
    from importlib import metadata

    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return None


def is_findable(name):
    """Whether there is a module of this package, which may still not work."""
    import importlib.util

    try:
        return importlib.util.find_spec(IMPORT_NAMES.get(name, name.replace("-", "_"))) is not None
    except (ImportError, ValueError):
        return False


def package(requirement):
    """Return what there is of a package: ``ok``, ``old``, ``missing`` or ``broken``."""
    name, _, minimum = requirement.partition(">=")
    version = installed_version(name)
    state = "ok"
    if version is None and not is_findable(name):
        state = "missing"
    elif not is_findable(name):
        state = "broken"
    elif version is None:
        # Slicer's own SimpleITK comes without metadata; anything else without is a broken installation.
        state = "ok" if name == "SimpleITK" else "broken"
    elif minimum and version and numbers(version) < numbers(minimum):
        state = "old"
    return {"name": name, "version": version, "state": state}


def torch_state():
    """Import PyTorch and compute with it; returns its version and what is wrong."""
    try:
        torch = importlib.import_module("torch")
        value = float(torch.ones(3).sum())
        version = str(torch.__version__)
    except Exception as error:  # noqa: BLE001 - a broken PyTorch raises anything; it is reported
        lines = str(error).splitlines() or [type(error).__name__]
        return {"version": None, "problem": lines[0][:300]}
    return {"version": version, "problem": "" if value == 3 else f"the sum of three ones is {value} there"}


def devices(library):
    """Return what the library says of the devices; None where it cannot be imported here."""
    sys.path.insert(0, library)
    try:
        describe = importlib.import_module("LungSegmentationLib.training.devices").describe_devices
        return describe().to_dict()
    except Exception as error:  # noqa: BLE001 - whatever is wrong there is reported
        return {"problem": f"{type(error).__name__}: {error}", "devices": [], "torch_build": None}


def main():
    """Look, and print what there is."""
    library, wanted = sys.argv[1], sys.argv[2:]
    sys.path[:1] = []  # the folder of this file holds modules that nobody else should find
    report = {"version": platform.python_version(), "executable": sys.executable, "packages": [], "torch": None}
    if sys.version_info >= (3, 11):  # noqa: UP036 - whoever is asked may be older
        report["packages"] = [package(requirement) for requirement in wanted]
        states = {entry["name"]: entry for entry in report["packages"]}
        if states.get("torch", {}).get("state") not in (None, "missing"):
            report["torch"] = torch_state()
            if report["torch"]["problem"]:
                states["torch"]["state"] = "broken"
        if all(entry["state"] == "ok" for entry in report["packages"]):
            report["devices"] = devices(library)
    sys.stdout.write("\n" + MARK + json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
