package surface_test

import (
	"net/http"
	"testing"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

func TestErrorsMapEveryCode(t *testing.T) {
	t.Parallel()
	for _, code := range domain.Codes() {
		httpStatus, title, ok := surface.StatusOf(code)
		if !ok || httpStatus < 400 || httpStatus > 599 || http.StatusText(httpStatus) == "" || title == "" {
			t.Errorf("%s: status %d, title %q", code, httpStatus, title)
		}
	}
	if surface.Mapped() != len(domain.Codes()) {
		t.Errorf("%d codes are mapped, %d exist", surface.Mapped(), len(domain.Codes()))
	}
}
