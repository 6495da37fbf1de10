# syntax=docker/dockerfile:1.7
# All four services: `docker build --target gateway .`, or where only build arguments can be given,
# `docker build --build-arg SERVICE=gateway .`.

ARG SERVICE=gateway

FROM rust:1.95.0-bookworm AS chef
WORKDIR /build
RUN cargo install cargo-chef --version 0.1.78 --locked

# What the dependencies are: changes only when a manifest or the lock file does.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

# The dependencies are a layer of their own. Then all four services at once, as they share most of what is compiled.
FROM chef AS build
COPY --from=plan /build/recipe.json .
RUN cargo chef cook --release --locked --recipe-path recipe.json \
    --package gateway --package chat-service --package notify-service --package typing-service
COPY . .
# Shown by the metric target_info: --build-arg GIT_COMMIT="$(git rev-parse HEAD)".
ARG GIT_COMMIT=unknown
RUN GIT_COMMIT="${GIT_COMMIT}" cargo build --release --locked \
    --package gateway --package chat-service --package notify-service --package typing-service

FROM debian:12.11-slim AS runtime
# Certificates: for NATS, Postgres and OTLP over TLS.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --chmod=755 deploy/docker/ready /usr/local/bin/ready
USER 10001:10001
ENV LOG_FORMAT=json
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["ready"]

FROM runtime AS gateway
ENV ADMIN_ADDR=0.0.0.0:9000
EXPOSE 8000 9000
COPY --from=build /build/target/release/gateway /usr/local/bin/
ENTRYPOINT ["gateway"]

FROM runtime AS chat-service
ENV ADMIN_ADDR=0.0.0.0:9001
EXPOSE 9001
COPY --from=build /build/target/release/chat-service /usr/local/bin/
ENTRYPOINT ["chat-service"]

FROM runtime AS notify-service
ENV ADMIN_ADDR=0.0.0.0:9002
EXPOSE 9002
COPY --from=build /build/target/release/notify-service /usr/local/bin/
ENTRYPOINT ["notify-service"]

FROM runtime AS typing-service
ENV ADMIN_ADDR=0.0.0.0:9003
EXPOSE 9003
COPY --from=build /build/target/release/typing-service /usr/local/bin/
ENTRYPOINT ["typing-service"]

# hadolint ignore=DL3006
FROM ${SERVICE} AS chosen
