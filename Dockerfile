# The study in a container: Python, the pinned libraries of workflow/container/requirements.txt, the package.
#   docker build -t desam-lite . && docker run --rm -v "$PWD/results:/study/results" desam-lite reproduce --profile smoke
# For Apptainer, build an image from it: apptainer build desam-lite.sif docker-daemon://desam-lite:latest
FROM python:3.11.13-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1

# Debian keeps only the newest build of a package: its version cannot be pinned, that of the image above is.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /study
COPY workflow/container/requirements.txt workflow/container/requirements.txt
RUN python -m pip install --no-deps --requirement workflow/container/requirements.txt
COPY . .
RUN python -m pip install --no-deps --editable . \
    && python -m pip check \
    && desam-lite info

RUN useradd --uid 1000 --create-home study && chown -R study /study
USER 1000
ENTRYPOINT ["desam-lite"]
CMD ["reproduce", "--profile", "smoke"]
