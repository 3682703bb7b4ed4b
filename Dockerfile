# The worker of compose.yaml: the package with its flows, PostgreSQL's driver and Dask. The pocket's weights come along.
FROM python:3.11-slim
RUN useradd --create-home anyloom
COPY . /src
# PyTorch's own index has the build without CUDA; a machine with a GPU leaves this line out.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==2.11.*" "torchaudio==2.11.*"
RUN pip install --no-cache-dir "/src[flows,postgres,dask]" && rm -rf /src
RUN mkdir -p /data /inbox /outbox && chown anyloom /data /inbox /outbox
USER anyloom
WORKDIR /home/anyloom
COPY --chown=anyloom prefect.yaml .
