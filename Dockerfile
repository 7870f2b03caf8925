# `humanquery serve` on a CPU:
#
#     docker build -t humanquery .
#     docker run --rm -p 8000:8000 --read-only --tmpfs /tmp humanquery
#
# PyTorch comes with CUDA (several GB) unless pip is told where its wheels for CPUs are:
#     docker build --build-arg TORCH_INDEX=<the address that PyTorch's website names for CPU> ...

FROM python:3.12-slim AS build
# the C compiler is for the CPU kernel, which goes into the wheel
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
RUN pip install --no-cache-dir build
COPY pyproject.toml hatch_build.py README.md LICENSE /src/
COPY humanquery /src/humanquery
RUN python -m build --wheel --outdir /wheels /src

FROM python:3.12-slim
ARG TORCH_INDEX=""
COPY --from=build /wheels /wheels
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; fi \
    && pip install --no-cache-dir "$(echo /wheels/*.whl)[serve]"
RUN useradd --create-home humanquery
USER humanquery
EXPOSE 8000
# the thread that owns the model must be alive, and no batch may hang
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
ENTRYPOINT ["humanquery", "serve", "--host", "0.0.0.0"]
