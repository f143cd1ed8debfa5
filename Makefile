# The commands of this project. Each is a thin name for what a person could type.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION)

# Linters run at pinned versions, outside go.mod.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0

.PHONY: build dev test race fuzz lint vuln bench soak clean

build: ## Build bin/rekey
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/rekey ./cmd/rekey

dev: build ## Run everything on this machine
	@scripts/ensure-postgres.sh
	@exec bin/rekey dev

test: ## Run the tests
	@scripts/ensure-postgres.sh
	$(GO) test ./...

race: ## Run the tests with the race detector
	@scripts/ensure-postgres.sh
	$(GO) test -race ./...

fuzz: ## Each fuzz target for FUZZ_SECONDS, 60 by default
	@scripts/ensure-postgres.sh
	@scripts/fuzz.sh

lint: ## Formatting, vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

vuln: ## Known vulnerabilities in what is called
	$(GO) run $(GOVULNCHECK) ./...

bench: build ## Each figure beside its limit
	@scripts/ensure-postgres.sh
	@exec bin/rekey bench

soak: ## The heavier proofs, bounded in time
	@scripts/ensure-postgres.sh
	REKEY_SOAK=1 $(GO) test -timeout 40m -count 1 ./...

clean: ## Remove what was built; the data directory of dev stays
	rm -rf bin
