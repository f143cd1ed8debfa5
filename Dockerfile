# syntax=docker/dockerfile:1
FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /rekey ./cmd/rekey

# Nothing but the program: no shell, no package manager, an unprivileged user.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /rekey /rekey
EXPOSE 8080 9464
ENV REKEY_ADDR=0.0.0.0:8080 REKEY_METRICS_ADDR=0.0.0.0:9464
HEALTHCHECK --interval=5s --timeout=3s --retries=5 CMD ["/rekey", "health"]
ENTRYPOINT ["/rekey"]
CMD ["serve"]
