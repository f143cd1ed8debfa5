// Command rekey issues, verifies, scopes, rotates and revokes API keys. `rekey dev` runs everything on this machine;
// `rekey serve` runs a replica against a Postgres and a NATS of yours. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // the zones of rotation windows, on machines that have none
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "dev"

func main() {
	// net/http prints unexpected bytes of a peer through the global logger: a receiver that echoes a webhook beyond the
	// end of its answer would put the secret there. What we have to say goes through slog.
	log.SetOutput(io.Discard)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // the heap is small beside what requests turn over; latency is what is dear
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "rekey:", err)
		os.Exit(1)
	}
}
