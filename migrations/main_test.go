package migrations_test

import (
	"testing"

	"github.com/rekeyhq/rekey/migrations/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m) }
