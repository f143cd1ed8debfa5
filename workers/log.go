package workers

import (
	"context"
	"log/slog"
)

// warningsOnly lets a library's warnings and errors into the log and leaves its chatter out.
type warningsOnly struct{ slog.Handler }

// Enabled lets warnings and errors through.
func (w warningsOnly) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}

// WithAttrs keeps the filter.
func (w warningsOnly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warningsOnly{w.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the filter.
func (w warningsOnly) WithGroup(name string) slog.Handler {
	return warningsOnly{w.Handler.WithGroup(name)}
}
