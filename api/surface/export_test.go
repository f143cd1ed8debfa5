package surface

import "github.com/rekeyhq/rekey/domain"

// StatusOf is the entry of a code in the map of errors.
func StatusOf(code domain.Code) (httpStatus int, title string, ok bool) {
	entry, ok := status[code]
	return entry.status, entry.title, ok
}

// Mapped is the number of codes that the map of errors knows.
func Mapped() int { return len(status) }

// DecodeJSON is how bodies are read.
func DecodeJSON(data []byte, v any) error { return decodeJSON(data, v) }
