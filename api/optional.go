package api

import (
	"encoding/json"
	"math"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/domain"
)

// optional is a field of an edit that tells absent (leave it), null (clear it) and a value apart.
type optional[T any] struct {
	set, null bool
	value     T
}

// UnmarshalJSON is only called for a field that is there.
func (o *optional[T]) UnmarshalJSON(raw []byte) error {
	o.set = true
	if string(raw) == "null" {
		o.null = true
		return nil
	}
	return json.Unmarshal(raw, &o.value)
}

// Schema is that of the value, or null.
func (o optional[T]) Schema(r huma.Registry) *huma.Schema {
	schema := *huma.SchemaFromType(r, reflect.TypeFor[T]())
	schema.Nullable = true
	return &schema
}

// change is the edit; null is the zero value, which clears.
func (o optional[T]) change() domain.Change[T] {
	return domain.Change[T]{Set: o.set, Value: o.value}
}

// pointer is nil for null and for absent.
func (o optional[T]) pointer() *T {
	if !o.set || o.null {
		return nil
	}
	return &o.value
}

// instant reads a time.
func instant(field string, text *string) (*time.Time, error) {
	if text == nil {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, *text)
	if err != nil {
		return nil, domain.InvalidField(field, "is not a time", "write it in RFC 3339, such as 2030-01-31T12:00:00Z")
	}
	return &at, nil
}

// inUnits merges a duration that may be given in seconds or in a larger unit, but not both.
func inUnits(secondsField string, seconds *int64, unitField string, unit *int64, perUnit int64) (*int64, error) {
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
