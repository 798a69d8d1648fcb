#!/usr/bin/env bash
# Installs the fonts that text_recogniser.py draws words with; run as root.
set -euo pipefail
apt-get update -qq
apt-get install -y -qq --no-install-recommends \
    fonts-cabin fonts-cantarell fonts-clear-sans fonts-comic-neue fonts-dejavu fonts-dosis \
    fonts-ebgaramond fonts-firacode fonts-freefont-ttf fonts-hack fonts-inconsolata \
    fonts-jetbrains-mono fonts-jura fonts-karla fonts-lato fonts-liberation fonts-manrope \
    fonts-oldstandard fonts-open-sans fonts-quicksand fonts-roboto-unhinted fonts-sil-andika \
    fonts-sil-charis fonts-sil-gentium-basic fonts-vollkorn fonts-averia-sans-gwf \
    fonts-averia-serif-gwf
