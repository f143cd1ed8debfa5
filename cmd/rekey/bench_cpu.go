package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"time"
)

// startProfile writes what the processor does until stop is called; nothing without a file.
func startProfile(file string) (stop func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("make the profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("start the profile: %w", err), f.Close())
	}
	return func() { pprof.StopCPUProfile(); _ = f.Close() }, nil
}

// clockTick is what /proc counts processor time in; the kernel has shown user space 100 Hz for decades.
const clockTick = 10 * time.Millisecond

// cpuTime is the processor time that this process and those it started have used, Postgres among them,
// also if they have ended. Beside requests
// per second it tells how much of a figure is the machine's noise. It is zero where there is no /proc.
func cpuTime() time.Duration {
	type process struct {
		parent int
		ticks  int64
	}
	processes := map[int]process{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		// The name in brackets may hold anything; what follows it is fields 3 and on.
		_, rest, ok := bytes.Cut(raw, []byte(") "))
		fields := bytes.Fields(rest)
		if !ok || len(fields) < 15 {
			continue
		}
		number := func(i int) int64 {
			n, _ := strconv.ParseInt(string(fields[i]), 10, 64)
			return n
		}
		processes[pid] = process{parent: int(number(1)), ticks: number(11) + number(12) + number(13) + number(14)}
	}
	self := os.Getpid()
	var total int64
	for pid := range processes {
		for p := pid; p > 1; p = processes[p].parent {
			if p == self {
				total += processes[pid].ticks
				break
			}
		}
	}
	return time.Duration(total) * clockTick
}

// spent adds up what processor time was spent on.
type spent struct {
	cpu   time.Duration
	times int
}

// count begins to count; the function it returns ends that.
func (s *spent) count() func() {
	before := cpuTime()
	return func() { s.cpu += cpuTime() - before }
}

func (s *spent) each() time.Duration { return s.cpu / time.Duration(max(1, s.times)) }
