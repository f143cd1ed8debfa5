package surface

import (
	"encoding/json"
	"math"
	"reflect"
	"regexp"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/domain"
)

// Optional is a field of an edit that tells absent (leave it), null (clear it) and a value apart.
type Optional[T any] struct {
	Set, Null bool
	Value     T
}

// UnmarshalJSON is only called for a field that is there.
func (o *Optional[T]) UnmarshalJSON(raw []byte) error {
	o.Set = true
	if string(raw) == "null" {
		o.Null = true
		return nil
	}
	return json.Unmarshal(raw, &o.Value)
}

// Schema is that of the value, or null.
func (o Optional[T]) Schema(r huma.Registry) *huma.Schema {
	schema := *huma.SchemaFromType(r, reflect.TypeFor[T]())
	schema.Nullable = true
	return &schema
}

// Change is the edit; null is the zero value, which clears.
func (o Optional[T]) Change() domain.Change[T] {
	return domain.Change[T]{Set: o.Set, Value: o.Value}
}

// Pointer is nil for null and for absent.
func (o Optional[T]) Pointer() *T {
	if !o.Set || o.Null {
		return nil
	}
	return &o.Value
}

// rfc3339 is the form of a time. Go's own reading of it also takes an hour of one digit, a comma for a point, and zones of
// more than a day (go.dev/issue/54580).
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// Instant reads a time.
func Instant(field string, text *string) (*time.Time, error) {
	if text == nil {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, *text)
	if err != nil || !rfc3339.MatchString(*text) {
		return nil, domain.InvalidField(field, "is not a time", "write it in RFC 3339, such as 2030-01-31T12:00:00Z")
	}
	return &at, nil
}

// InUnits merges a duration that may be given in seconds or in a larger unit, but not both.
func InUnits(secondsField string, seconds *int64, unitField string, unit *int64, perUnit int64) (*int64, error) {
	if unit == nil {
		return seconds, nil
	}
	if seconds != nil {
		return nil, domain.InvalidField(unitField, "is given beside "+secondsField, "send one of the two")
	}
	if *unit > math.MaxInt64/perUnit || *unit < math.MinInt64/perUnit {
		return nil, domain.InvalidField(unitField, "is out of range", "choose a smaller number")
	}
	n := *unit * perUnit
	return &n, nil
}

// OrZero is what a pointer points to, or nothing.
func OrZero[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
