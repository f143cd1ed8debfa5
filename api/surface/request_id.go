package surface

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"

	"github.com/rekeyhq/rekey/domain"
)

// requestIDs names requests. Such an id leads to lines of a log and gives no right to anything, so it need not be hard to
// guess, and every verify pays for one.
var requestIDs = domain.IDs{Random: quickRandom{}}

// quickRandom reads the runtime's own generator, which many goroutines can at once.
type quickRandom struct{}

func (quickRandom) Read(p []byte) (n int, err error) {
	for n < len(p) {
		n += copy(p[n:], binary.LittleEndian.AppendUint64(nil, rand.Uint64()))
	}
	return n, nil
}

// validRequestID accepts a caller's own id if it is short and plain: it ends up in the answer, the log and in events. Keys
// have two underscores, so one that was sent here by mistake is not accepted.
func validRequestID(id string) bool {
	if id == "" || len(id) > 64 || strings.Count(id, "_") > 1 {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}
