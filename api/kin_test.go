//go:build kin

package api_test

import (
	"context"
	"net/http"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

func init() { secondJudge = judgeByKin }

// TestDocumentByKin has a tool that others use read the document: it is OpenAPI 3.1, all references resolve, and every
// example and default fits its schema.
func TestDocumentByKin(t *testing.T) {
	t.Parallel()
	doc, _ := kinDocument()
	must(t, doc.Validate(t.Context()))
	if !doc.IsOpenAPI31OrLater() {
		t.Errorf("version %s", doc.OpenAPI)
	}
}

// kinDocument loads the document as a tool would, from its bytes.
var kinDocument = sync.OnceValues(func() (*openapi3.T, routers.Router) {
	doc, err := openapi3.NewLoader().LoadFromData(published().raw)
	if err != nil {
		panic(err)
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		panic(err)
	}
	openapi3filter.RegisterBodyDecoder("application/problem+json", openapi3filter.JSONBodyDecoder)
	return doc, router
})

// judgeByKin validates answers to requests that the document knows; JSON Schema 2020-12 decides, with null only where the
// schema says so.
func judgeByKin(t *testing.T, request *http.Request, response *http.Response, body []byte) {
	t.Helper()
	_, router := kinDocument()
	asked := request.Clone(context.WithoutCancel(request.Context()))
	asked.URL.Scheme, asked.URL.Host, asked.Host = "", "", ""
	route, parameters, err := router.FindRoute(asked)
	if err != nil {
		return // 404 and 405 of the routes
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: asked, PathParams: parameters, Route: route},
		Status:                 response.StatusCode, Header: response.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	input.SetBodyBytes(body)
	if err := openapi3filter.ValidateResponse(asked.Context(), input); err != nil {
		t.Errorf("%s %s answered %d: kin-openapi: %v", request.Method, request.URL.Path, response.StatusCode, err)
	}
}
