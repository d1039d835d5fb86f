# lensfinder in a container, for processors (the default target) and for NVIDIA's GPUs:
#
#     docker build -t lensfinder .
#     docker build -t lensfinder:cuda --target cuda .
#     docker run --rm --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" -v "$PWD:/data" \
#         lensfinder run /opt/lensfinder/pipelines/quickstart.toml
#
# It runs as any user, writes to the folder it works in (/data) and to the temporary one, and to
# nothing else. docs/containers.md says more, also how to use it on a cluster with Apptainer.

# Any Debian with Python 3.11 or later; torch's wheels bring CUDA along.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/lensfinder/venv
ENV PATH=/opt/lensfinder/venv/bin:$PATH
WORKDIR /src

FROM build AS build-cpu
# Where torch without CUDA is; empty takes whatever pip finds without it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt torch
# The packages: a layer that stays as long as what the project depends on does.
COPY pyproject.toml README.md LICENSE ./
COPY lensfinder/__init__.py lensfinder/
RUN pip install -c constraints.txt '.[compile]'
COPY . .
RUN pip install --no-deps --force-reinstall .

FROM build AS build-cuda
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY lensfinder/__init__.py lensfinder/
RUN pip install -c constraints.txt '.[compile]'
COPY . .
RUN pip install --no-deps --force-reinstall .

FROM ${BASE} AS runtime
# Libraries' caches go to a folder of this user alone, never to $HOME; Apptainer shares both $HOME
# and /tmp with the host, and a user's own Python packages there must not be mixed in.
# hadolint ignore=SC2016
RUN printf '%s\n' '#!/bin/sh' \
    'own=${TMPDIR:-/tmp}/lensfinder-$(id -u)' \
    'mkdir -m 700 "$own" 2>/dev/null' \
    'if [ -L "$own" ] || [ ! -O "$own" ]; then own=$(mktemp -d); fi' \
    'export XDG_CACHE_HOME="$own" XDG_CONFIG_HOME="$own" MPLCONFIGDIR="$own/matplotlib"' \
    'export TORCHINDUCTOR_CACHE_DIR="$own/torch" TRITON_CACHE_DIR="$own/triton"' \
    'export CUDA_CACHE_PATH="$own/cuda"' \
    'exec /opt/lensfinder/venv/bin/lensfinder "$@"' \
    >/usr/local/bin/lensfinder && chmod 755 /usr/local/bin/lensfinder
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1 \
    DASK_CONFIG=/opt/lensfinder/dask \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY pipelines /opt/lensfinder/pipelines
COPY sample_data /opt/lensfinder/sample_data
# Whatever the umask of the checkout was, any user can read it.
RUN chmod -R a+rX /opt/lensfinder
USER 65534:65534
WORKDIR /data
ENTRYPOINT ["lensfinder"]
CMD ["--help"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/lensfinder/venv /opt/lensfinder/venv

FROM runtime AS cpu
COPY --from=build-cpu /opt/lensfinder/venv /opt/lensfinder/venv
