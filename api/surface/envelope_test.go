package surface_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

// TestEnvelopesHaveACodeForEveryRefusal requires one for each domain code, and for what only this package answers with.
func TestEnvelopesHaveACodeForEveryRefusal(t *testing.T) {
	t.Parallel()
	want := map[domain.Code]string{
		domain.CodeUnauthenticated: "UNAUTHORIZED", domain.CodeInsufficientScope: "FORBIDDEN", domain.CodeEscalation: "FORBIDDEN",
		domain.CodeSurfaceDisabled: "FORBIDDEN", domain.CodeNotFound: "NOT_FOUND", domain.CodeValidation: "VALIDATION_ERROR",
		domain.CodeInvalidRequest: "BAD_REQUEST", domain.CodeVersionConflict: "CONFLICT", domain.CodeProjectNotEmpty: "CONFLICT",
		domain.CodeEndpointState: "CONFLICT", domain.CodeEndpointInUse: "CONFLICT",
		domain.CodePrecondition: "PRECONDITION_FAILED", domain.CodeMethodNotAllowed: "METHOD_NOT_ALLOWED",
		domain.CodeTooLarge: "PAYLOAD_TOO_LARGE", domain.CodeUnsupportedMedia: "UNSUPPORTED_MEDIA_TYPE",
		domain.CodeUnavailable: "UNAVAILABLE", domain.CodeInternal: "INTERNAL",
	}
	statuses := map[string]int{}
	for _, code := range domain.Codes() {
		status, _, _ := surface.StatusOf(code)
		got := surface.InEnvelope(&surface.Problem{Status: status}).(surface.Envelope).Error.Code
		if got == "" || strings.ToUpper(got) != got || want[code] != "" && got != want[code] {
			t.Errorf("%s (%d) has the code %q, want %q", code, status, got, want[code])
		}
		if other := statuses[got]; other != 0 && other != status {
			t.Errorf("%s stands for %d and %d", got, other, status)
		}
		statuses[got] = status
	}
}

// TestInEnvelope shows the whole form. What is not there is left out of the details, but the object itself never is.
func TestInEnvelope(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]*surface.Problem{
		`{"success":false,"error":{"code":"NOT_FOUND","message":"no such key","details":{}}}`: {
			Status: http.StatusNotFound, Detail: "no such key",
		},
		`{"success":false,"error":{"code":"FORBIDDEN","message":"no","details":{"request_id":"req_1","required_scope":"read"}}}`: {
			Status: http.StatusForbidden, Detail: "no", RequestID: "req_1", Details: map[string]any{"required_scope": "read"},
		},
		`{"success":false,"error":{"code":"VALIDATION_ERROR","message":"name is empty","details":{"fields":[{"field":"name","message":"is empty","remedy":"fill it"}]}}}`: {
			Status: http.StatusUnprocessableEntity, Detail: "name is empty", Errors: []domain.FieldError{{Field: "name", Message: "is empty", Remedy: "fill it"}},
		},
	} {
		got, err := json.Marshal(surface.InEnvelope(p))
		if err != nil || string(got) != want {
			t.Errorf("got  %s, %v\nwant %s", got, err, want)
		}
	}
}
