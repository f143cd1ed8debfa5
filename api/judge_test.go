package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// documented holds every answer against the document. Each test of the package calls through it.
type documented struct {
	t    testing.TB
	next http.RoundTripper
}

func (d documented) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := d.next.RoundTrip(request)
	if err != nil || response.Header.Get("Content-Type") == "text/event-stream" {
		return response, err
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return response, err
	}
	if err := about(request.URL.Path).judge(request, response, body); err != nil {
		d.t.Errorf("%s %s answered %d: %v\n%s", request.Method, request.URL.Path, response.StatusCode, err, body)
	}
	return response, nil
}

// judge says what an answer has that the document does not promise, or the other way round.
func (d *document) judge(request *http.Request, response *http.Response, body []byte) error {
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := response.Header.Get(name); got != want {
			return fmt.Errorf("%s is %q", name, got)
		}
	}
	if response.Header.Get("X-Request-Id") == "" {
		return errors.New("no X-Request-Id")
	}
	if request.Method == http.MethodHead || request.Method == http.MethodOptions || request.URL.Path == d.path {
		return nil
	}
	if local := notUTC.Find(body); local != nil {
		return fmt.Errorf("the time %s is not in UTC", local)
	}
	request = asAsked(request)
	pattern, o := d.find(request.Method, request.URL.EscapedPath())
	if o == nil {
		return d.judgeRoutes(response, body)
	}
	promised := d.answer(o, fmt.Sprint(response.StatusCode))
	for _, name := range []string{"Link", "WWW-Authenticate", "Retry-After", "X-Request-Id"} {
		if _, ok := promised.Headers[name]; response.Header.Get(name) != "" && !ok {
			return errors.New(name + " is not documented")
		}
	}
	if len(promised.Content) == 0 && len(body) > 0 {
		return errors.New("a body, but none is documented")
	}
	if response.StatusCode < http.StatusMultipleChoices && !slices.Contains(uncheckedRoutes, request.Method+" "+pattern) {
		if err := d.judgeRequest(pattern, request); err != nil {
			return fmt.Errorf("it was accepted, but the document has no such request: %w", err)
		}
	}
	return d.judgeAnswer(pattern, request, response, body)
}

// asAsked is a request to /v1/auth as the document has it: any method and any path below it are taken, as its description
// says, and there the query counts for nothing.
func asAsked(request *http.Request) *http.Request {
	below, isAsked := strings.CutPrefix(request.URL.Path, "/v1/auth")
	if !isAsked || below != "" && below[0] != '/' {
		return request
	}
	same := request.Clone(context.Background())
	if same.GetBody = request.GetBody; below != "" {
		same.URL = &url.URL{Path: "/v1/auth"}
	}
	if !slices.Contains([]string{"GET", "POST", "PUT", "PATCH", "DELETE"}, request.Method) {
		same.Method = http.MethodGet
	}
	return same
}

var notUTC = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*[^"Z]"`)

// judgeAnswer has kin-openapi validate an answer of a documented operation: JSON Schema 2020-12 decides, with null only
// where the schema says so.
func (d *document) judgeAnswer(pattern string, request *http.Request, response *http.Response, body []byte) error {
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, Route: routeIn(d.closed(), pattern, request)},
		Status:                 response.StatusCode, Header: response.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	return openapi3filter.ValidateResponse(context.Background(), input.SetBodyBytes(body))
}

// routeIn is a documented operation as kin-openapi has it.
func routeIn(doc *openapi3.T, pattern string, request *http.Request) *routers.Route {
	item := doc.Paths.Value(pattern)
	return &routers.Route{Spec: doc, Path: pattern, PathItem: item, Method: request.Method, Operation: item.GetOperation(request.Method)}
}

// judgeRequest has kin-openapi validate a request: its body, its parameters and its headers. Some things are taken beyond
// the document, which no tool can say: a body without a Content-Type, or with another of JSON's names; and parameters that
// are empty in place of absent.
func (d *document) judgeRequest(pattern string, request *http.Request) error {
	sent := request.Clone(context.Background())
	if kind, _, _ := strings.Cut(sent.Header.Get("Content-Type"), ";"); kind == "" || strings.HasSuffix(strings.ToLower(kind), "json") {
		sent.Header.Set("Content-Type", "application/json")
	}
	maps.DeleteFunc(sent.Header, func(_ string, values []string) bool { return strings.TrimSpace(values[0]) == "" })
	query := sent.URL.Query()
	maps.DeleteFunc(query, func(_ string, values []string) bool { return slices.Equal(values, []string{""}) })
	sent.URL.RawQuery = query.Encode()
	if request.GetBody != nil { // what was sent has been read
		body, err := request.GetBody()
		if err != nil {
			return err
		}
		sent.Body = body
	}
	named := map[string]string{}
	have := strings.Split(request.URL.Path, "/")
	for i, part := range strings.Split(pattern, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			named[strings.TrimSuffix(name, "}")] = have[i]
		}
	}
	return openapi3filter.ValidateRequest(context.Background(), &openapi3filter.RequestValidationInput{
		Request: sent, PathParams: named, Route: routeIn(d.asIs(), pattern, request),
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	})
}

// judgeRoutes judges the answer where there is no such route or method: it has the form of every other 404.
func (d *document) judgeRoutes(response *http.Response, body []byte) error {
	if !slices.Contains([]int{401, 403, 404, 405, 503}, response.StatusCode) { // some surfaces ask for a key even there
		return errors.New("the operation is not documented")
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	form := d.closed().Components.Responses["Problem404"].Value.Content[response.Header.Get("Content-Type")]
	if form == nil {
		return errors.New("another media type than every other 404")
	}
	return form.Schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020())
}
