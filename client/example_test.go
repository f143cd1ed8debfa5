package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/rekeyhq/rekey/client"
)

// A service that lets requests through with a key that holds orders:read.
func ExampleRequire() {
	keys, err := client.New(os.Getenv("REKEY_URL"), os.Getenv("REKEY_KEY")) // a key that holds keys:verify
	if err != nil {
		log.Fatal(err)
	}
	defer keys.Close()
	orders := func(w http.ResponseWriter, r *http.Request) {
		key, _ := client.FromContext(r.Context())
		fmt.Fprintf(w, "hello, %s of %s\n", key.Name, key.OrganizationID)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", client.Require(keys, "orders:read")(http.HandlerFunc(orders)))
	log.Fatal(http.ListenAndServe("127.0.0.1:8000", mux))
}

// A service behind a proxy that puts the client's address into X-Real-IP, whose keys are limited to apps.
func ExampleNewGate() {
	keys, err := client.New("https://rekey.example.com", os.Getenv("REKEY_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	gate := client.NewGate(keys,
		client.WithClientIP(func(r *http.Request) netip.Addr {
			address, _ := netip.ParseAddr(r.Header.Get("X-Real-IP"))
			return address
		}),
		client.WithResources(func(r *http.Request) map[string]string {
			return map[string]string{"app": r.PathValue("app")}
		}),
		client.WithOnError(func(_ *http.Request, err error) {
			slog.Error("a key could not be checked", "error", err)
		}),
	)
	upload := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	mux := http.NewServeMux()
	mux.Handle("POST /apps/{app}/bundles", gate.Require("bundles:write")(upload))
	log.Fatal(http.ListenAndServe("127.0.0.1:8000", mux))
}

// A verify without the middleware, with everything that can become of it.
func ExampleClient_Verify() {
	keys, err := client.New("https://rekey.example.com", os.Getenv("REKEY_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	presented := strings.TrimPrefix("Bearer rk_live_...", "Bearer ")
	verdict, err := keys.Verify(context.Background(), client.Request{
		Secret: client.NewSecret(presented), Scopes: []string{"orders:read"},
	})
	switch {
	case errors.Is(err, client.ErrRefused):
		log.Fatal("this service's own key is not accepted: ", err)
	case errors.Is(err, client.ErrBadRequest):
		log.Fatal("this service asks for what there is not: ", err)
	case err != nil:
		log.Print("nobody gets in, for there is no answer now: ", err)
	case !verdict.Valid:
		log.Print("no: ", verdict.Code)
	case verdict.InGrace():
		log.Print("yes, until ", verdict.GraceExpiresAt, "; then only ", verdict.ReplacedBy)
	default:
		log.Print("yes: ", verdict.KeyID)
	}
}

// Secrets do not show themselves.
func ExampleSecret() {
	secret := client.NewSecret("rk_live_...")
	fmt.Println(secret)
	fmt.Printf("%+v\n", client.Request{Secret: secret}.Secret)
	// Output:
	// [redacted]
	// [redacted]
}
