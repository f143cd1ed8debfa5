package embedded_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"

	"github.com/rekeyhq/rekey/client"
	"github.com/rekeyhq/rekey/client/embedded"
)

// A service that verifies in its own memory.
func Example() {
	keys, err := embedded.Open(context.Background(), embedded.Config{
		DatabaseURL: os.Getenv("REKEY_DATABASE_URL"),
		Key:         client.NewSecret(os.Getenv("REKEY_KEY")),
		NATSURL:     os.Getenv("REKEY_NATS_URL"), // optional: revokes are known sooner
		Logger:      slog.Default(),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer keys.Close()
	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, _ := client.FromContext(r.Context())
		fmt.Fprintf(w, "hello, %s of %s\n", key.Name, key.OrganizationID)
	})
	mux := http.NewServeMux()
	mux.Handle("GET /orders", client.Require(keys, "orders:read")(orders))
	log.Print(http.ListenAndServe("127.0.0.1:8000", mux))
}
