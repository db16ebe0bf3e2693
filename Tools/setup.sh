#!/bin/sh
# Prepares the folder .venv with this project and its dependencies: sh Tools/setup.sh [GROUP ...]
#
# GROUP is an optional dependency group of pyproject.toml (train, test, benchmark ...). PYTHON names the interpreter to
# use. A complete .venv is left as it is, which takes a blink; one that is half made or out of date is made anew.
# What the system lacks is installed with apt where that is possible; otherwise a sentence says what to do.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONHOME PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

environment=.venv
python=$environment/bin/python
ready=$environment/.lungseg-ready     # what was installed, written last
begun=$environment/.lungseg-begun     # this script made the folder, so this script may delete it
wanted=$*

say() { printf '%s\n' "$*" >&2; }
stop() { say "$@"; exit 1; }

# The settings of the checkers, from [tool.ruff] on, change nothing that is installed.
fingerprint() {
    { sed '/^\[tool\.ruff/,$d' pyproject.toml; cat constraints.txt Tools/setup.sh; pwd -P; } | cksum
}

version_of() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null; }

is_chosen_python() { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$python")" ]; }

is_ready() {
    [ -f "$ready" ] && version_of "$python" >/dev/null || return 1
    [ "$(sed -n 1p "$ready")" = "$(fingerprint)" ] && is_chosen_python
}

has_groups() {
    for group in $wanted; do
        case " $(sed -n 2p "$ready") " in *" $group "*) ;; *) return 1 ;; esac
    done
}

# Debian ships a Python whose venv lacks ensurepip until pythonX.Y-venv is there: such a one is the second choice.
choose_python() {
    for need in 'import ensurepip, venv' 'pass'; do
        for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python3.14; do
            if "$candidate" -c "import sys; assert sys.version_info >= (3, 11); $need" >/dev/null 2>&1; then
                printf '%s\n' "$candidate"
                return
            fi
            [ -z "${PYTHON:-}" ] || break
        done
    done
    return 1
}

# Prints how to become root, or fails. A password is asked for only at a terminal, and never for what is optional.
root_command() {
    if [ "$(id -u)" = 0 ]; then echo env
    elif ! command -v sudo >/dev/null; then return 1
    elif sudo -n true </dev/null >/dev/null 2>&1; then echo sudo -n env
    elif [ "$1" = needed ] && [ -t 0 ] && [ -z "${CI:-}" ]; then echo sudo env
    else return 1
    fi
}

# apt_install needed|optional PACKAGE ...
apt_install() {
    importance=$1; shift
    command -v apt-get >/dev/null || return 1
    as_root=$(root_command "$importance") || return 1
    say "Installing with apt: $*"
    apt="$as_root DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120"
    # A package list that cannot be renewed may still serve.
    $apt update </dev/null >/dev/null 2>&1 || true
    $apt install -y --no-install-recommends "$@" </dev/null >/dev/null 2>&1
}

make_environment() {
    if [ -e "$environment" ] || [ -L "$environment" ]; then
        # Someone's own working environment is used, not deleted.
        works='import sys, pip; assert sys.version_info >= (3, 11)'
        if [ ! -e "$begun" ] && "$python" -c "$works" >/dev/null 2>&1 && is_chosen_python; then
            rm -f "$ready"
            return
        fi
        say "The folder $environment is half made or out of date: making it anew."
        rm -rf "$environment"
    fi
    chosen=$(choose_python) || stop "No Python 3.11 or later was found${PYTHON:+ as “$PYTHON”}." \
        "Install one, or name one: make test PYTHON=/path/to/python3.11"
    if ! "$chosen" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        package=$("$chosen" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        apt_install needed "$package" || stop "$chosen has no venv module, and it could not be installed here." \
            "Have an administrator run: apt-get install $package"
    fi
    say "Making $environment with $("$chosen" --version)."
    mkdir "$environment"
    touch "$begun"
    "$chosen" -m venv "$environment" </dev/null >&2 ||
        stop "$chosen could not make the folder $environment; its own words are above."
}

install_packages() {
    groups=$(echo $wanted | tr ' ' ',')
    say "Installing the packages (the first time this takes minutes and 1 to 3 GB of disk)."
    "$python" -m pip install --quiet -c constraints.txt -e ".${groups:+[$groups]}" </dev/null >&2 ||
        stop "The packages could not be installed; pip's own words are above." \
            "Mend what they name (network, proxy, disk space) and call make again."
}

# rt-utils, which the benchmarks compare with, brings an OpenCV that needs two system libraries.
add_graphics_libraries() {
    "$python" -c 'import cv2' >/dev/null 2>&1 && return
    apt_install needed libgl1 libglib2.0-0 && "$python" -c 'import cv2' >/dev/null 2>&1 && return
    say "OpenCV lacks system libraries, and they cannot be installed here: comparisons with rt-utils will not run." \
        "An administrator can run: apt-get install libgl1 libglib2.0-0"
}

# The module's tests draw with Qt and VTK, which load what a server lacks even where no window opens.
add_window_libraries() {
    [ "$(uname)" = Linux ] && "$python" -c 'import PySide6' >/dev/null 2>&1 || return 0
    works='import ctypes; from PySide6 import QtWidgets; ctypes.CDLL("libEGL.so.1")'
    "$python" -c "$works" >/dev/null 2>&1 && return
    needed='libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libx11-6 libxkbcommon0 libfontconfig1 libglib2.0-0'
    apt_install optional $needed && "$python" -c "$works" >/dev/null 2>&1 && return
    say "Libraries for windows and drawing are not here and cannot be installed: tests of the Slicer module will be skipped." \
        "An administrator can run: apt-get install $needed"
}

add_plastimatch() {
    command -v plastimatch >/dev/null && return
    apt_install optional plastimatch && command -v plastimatch >/dev/null && return
    say "plastimatch is not here and cannot be installed: the tests that compare with it will be skipped." \
        "An administrator can run: apt-get install plastimatch"
}

# Two calls at the same time take turns, where the system has flock.
if command -v flock >/dev/null; then exec 9<Tools/setup.sh; flock 9; fi

if is_ready; then
    has_groups && exit 0
    wanted=$(printf '%s\n' $(sed -n 2p "$ready") $wanted | sort -u | tr '\n' ' ')
    rm -f "$ready"
else
    make_environment
fi
install_packages
for group in $wanted; do
    case $group in
        benchmark) add_graphics_libraries ;;
        test) add_plastimatch ;;
        module) add_window_libraries ;;
    esac
done
{ fingerprint; echo $wanted; } >"$ready"
say "The environment is ready."
