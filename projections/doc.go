// Package projections is the read model: rows that follow from the log and that commands, verifies and lists look up.
//
// # What it guarantees
//
// Rows are written in the transaction that appends the events, by the same fold that commands are decided on, so a read
// after an acknowledged command sees it. Check folds the whole log in one snapshot and compares every row; Rebuild makes
// the rows what the log says, while commands go on.
//
// # What it does not
//
// due_work's scan_at, attempts and last_error belong to the sweep and are not compared; sealed secrets and deliveries are
// not in the log at all, because it holds no secrets and no attempts.
package projections
