package projections

import (
	"net/netip"
	"slices"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// use is what was counted of one key. It has at most 128 bytes: a map keeps larger ones apart, which costs who counts.
type use struct {
	organization domain.OrganizationID
	project      domain.ProjectID
	lineage      domain.UUID
	generation   uint32
	grace        bool // at one of the uses
	hourUse           // of the hour of the latest word
	// others are other hours. Mostly there are none; only what an outage kept waiting has more.
	others *[]hourUse
}

// hourUse is what an hour has seen. Hours count from 1970, and times are in microseconds, as the database keeps them.
type hourUse struct {
	hour          int64
	count, denied int64
	at            int64      // of the latest use, or else of the latest denial
	ip            netip.Addr // where that came from; zero: not known
}

func oneUse(key *UsedKey, from netip.Addr, micros int64, valid bool) use {
	micros = min(max(micros, firstMoment), lastMoment)
	one := use{
		organization: key.Organization, project: key.Project, lineage: key.Lineage, generation: key.Generation, grace: key.Grace,
		hourUse: hourUse{hour: floorHour(micros), at: micros},
	}
	if valid {
		one.count, one.ip = 1, from
	} else {
		one.denied = 1
	}
	return one
}

const microsPerHour = int64(time.Hour / time.Microsecond)

// What an event can say of a moment. A clock that is further off than that must not write what nobody can read.
var (
	firstMoment = time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC).UnixMicro()
	lastMoment  = time.Date(9999, 12, 30, 0, 0, 0, 0, time.UTC).UnixMicro()
)

// floorHour is right before 1970 too: a clock may say anything.
func floorHour(micros int64) int64 {
	hour := micros / microsPerHour
	if micros%microsPerHour < 0 {
		hour--
	}
	return hour
}

func hourStart(hour int64) time.Time { return time.Unix(hour*3600, 0).UTC() }

// and adds one use that was counted later. Of two latest uses at one moment it is that one.
func (u use) and(one *use) use {
	if u.count+u.denied == 0 {
		return *one
	}
	u.grace = u.grace || one.grace
	if u.hour != one.hour {
		u.turnTo(one.hour)
	}
	if one.count > 0 && (u.count == 0 || one.at >= u.at) {
		u.at, u.ip = one.at, one.ip
	} else if u.count == 0 {
		u.at = max(u.at, one.at)
	}
	u.count += one.count
	u.denied += one.denied
	return u
}

// turnTo makes another hour the one that is counted in.
func (u *use) turnTo(hour int64) {
	if u.others == nil {
		u.others = &[]hourUse{}
	}
	i := slices.IndexFunc(*u.others, func(h hourUse) bool { return h.hour == hour })
	if i < 0 {
		*u.others = append(*u.others, u.hourUse)
		u.hourUse = hourUse{hour: hour}
		return
	}
	u.hourUse, (*u.others)[i] = (*u.others)[i], u.hourUse
}

// all is how many uses and denials it counts.
func (u *use) all() int64 {
	n := u.count + u.denied
	if u.others != nil {
		for _, h := range *u.others {
			n += h.count + h.denied
		}
	}
	return n
}
