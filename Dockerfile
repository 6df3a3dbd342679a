# make serve in a container; see docs/serving.md.  Built from the checkout:
#   docker build -t one-step .                        adapters and exported models on CPUs
#   docker build -t one-step --build-arg FOR=cuda .   adapters on an NVIDIA GPU
#   docker build -t one-step --build-arg FOR=exported .   exported models alone, without PyTorch
FROM python:3.11-slim
ARG FOR=cpu
ENV PYTHONUNBUFFERED=1

WORKDIR /build
COPY constraints.txt ./
COPY docker ./docker
RUN python -m pip install --no-cache-dir -c constraints.txt -r docker/${FOR}.txt
# The package itself without what it declares, which training needs.
COPY . ./source
RUN python -m pip install --no-cache-dir --no-deps ./source
RUN useradd --create-home --uid 1000 server

USER server
WORKDIR /models
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=5m --timeout=5s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["one-step", "serve", "--ckpt", "/models", "--host", "0.0.0.0", "--port", "8000"]
