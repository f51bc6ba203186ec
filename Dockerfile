# The project with its pinned packages, from its own files.
#
#     docker build -t glscl .
#     docker run -v "$PWD/pages:/project/_build" glscl make book PARAMS=smoke
#
# With a GPU: docker run --gpus all ... make book PARAMS=gpu
FROM python:3.12-slim AS tools
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

FROM tools
WORKDIR /project
COPY pyproject.toml constraints.txt environment.yml Makefile Dockerfile ./
COPY README.md CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE ./
COPY _config.yml _toc.yml ./
COPY .ci .ci
COPY .devcontainer .devcontainer
COPY .github .github
COPY benchmarks benchmarks
COPY book book
COPY glscl glscl
COPY notebooks notebooks
COPY smoke_tests smoke_tests
COPY tests tests
RUN make .venv/.build .venv/.test
CMD ["make", "help"]
