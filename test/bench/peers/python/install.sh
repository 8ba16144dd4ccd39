#!/bin/sh
# Installs the peers of `npm run bench -- peers` into .peers/, and says which ones could not be installed: those are skipped.
requirements=test/bench/peers/requirements.txt
python3 -m venv .peers || { echo "bench:peers: no peers, because python3 -m venv does not work here"; exit 1; }
.peers/bin/pip install --quiet --disable-pip-version-check --requirement "$requirements" && exit
while read -r package; do
  .peers/bin/pip install --quiet --disable-pip-version-check "$package" || echo "bench:peers: not installed: $package"
done < "$requirements"
