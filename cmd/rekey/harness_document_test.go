package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/go-chi/chi/v5"

	"github.com/rekeyhq/rekey/api"
)

// documents are the OpenAPI documents of all surfaces by their paths, as the router knows them.
var documents = sync.OnceValues(func() (map[string][]byte, error) {
	handler, all := api.New(api.Config{Logger: slog.New(slog.DiscardHandler), Version: "test"}), map[string][]byte{}
	err := chi.Walk(handler.(chi.Routes), func(_, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if strings.HasSuffix(path, "/openapi.json") {
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
			all[path] = recorder.Body.Bytes()
		}
		return nil
	})
	return all, err
})

// promises find what the documents say of a request.
var promises = sync.OnceValues(func() (found []routers.Router, err error) {
	openapi3filter.RegisterBodyDecoder("application/problem+json", openapi3filter.JSONBodyDecoder)
	raw, err := documents()
	for _, document := range raw {
		read, loadErr := openapi3.NewLoader().LoadFromData(document)
		if loadErr != nil {
			return nil, loadErr
		}
		read.Servers = nil // that is wherever the test's rekey is
		router, routerErr := legacy.NewRouter(read)
		if routerErr != nil {
			return nil, routerErr
		}
		found = append(found, router)
	}
	return found, err
})

// undocumented are no part of any surface.
var undocumented = []string{"/metrics", "/openapi.json"}

// documented says what an answer has that the document of its surface does not promise, or the other way round.
func documented(got answer) error {
	all, err := promises()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(undocumented, func(path string) bool { return strings.HasSuffix(got.request.URL.Path, path) }) {
		return nil
	}
	for _, promise := range all {
		route, params, err := promise.FindRoute(got.request)
		if err != nil {
			continue // it is another surface's
		}
		asked := &openapi3filter.RequestValidationInput{Request: got.request, PathParams: params, Route: route}
		return openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: asked, Status: got.status, Header: got.header, Body: io.NopCloser(bytes.NewReader(got.body)),
			Options: &openapi3filter.Options{IncludeResponseStatus: true},
		})
	}
	return errors.New("no document has this route")
}
