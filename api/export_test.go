package api

import (
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// SetHeartbeat makes streams look at their caller's key more often than production does.
func SetHeartbeat(c *Config, every time.Duration) { c.heartbeat = every }

// StatusOf is the entry of a code in the map of errors.
func StatusOf(code domain.Code) (httpStatus int, title string, ok bool) {
	entry, ok := status[code]
	return entry.status, entry.title, ok
}

// Mapped is the number of codes that the map of errors knows.
func Mapped() int { return len(status) }

// DecodeJSON is how bodies are read.
func DecodeJSON(data []byte, v any) error { return decodeJSON(data, v) }
