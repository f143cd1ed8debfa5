package surface

import (
	"bytes"
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// Nullable is an object in an answer that may be absent, and then is null. A pointer to a struct cannot say so in the
// document.
type Nullable[T any] struct{ Value *T }

// MarshalJSON writes the object as answers are written.
func (n Nullable[T]) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(n.Value)
	return bytes.TrimSpace(out.Bytes()), err
}

// Schema is that of the object, or null.
func (n Nullable[T]) Schema(r huma.Registry) *huma.Schema {
	schema := *huma.SchemaFromType(r, reflect.TypeFor[T]())
	schema.Nullable = true
	return &schema
}
