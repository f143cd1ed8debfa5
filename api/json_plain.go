package api

// plainJSON reads JSON of the plain kind: strings of printable ASCII without escapes, in objects and lists. Each method
// reports whether there was what it asks for; where one says no, nothing is known of the text.
type plainJSON struct {
	text string
	at   int
}

func (p *plainJSON) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// next takes a character that must come next.
func (p *plainJSON) next(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

// end reports whether nothing is left.
func (p *plainJSON) end() bool {
	p.space()
	return p.at == len(p.text)
}

func (p *plainJSON) string(into *string) bool {
	if !p.next('"') {
		return false
	}
	for i := p.at; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '"':
			*into, p.at = p.text[p.at:i], i+1
			return true
		case c < ' ' || c > '~' || c == '\\':
			return false
		}
	}
	return false
}

// object reads an object, whose fields are read by field.
func (p *plainJSON) object(field func(name string) bool) bool {
	if !p.next('{') {
		return false
	}
	if p.next('}') {
		return true
	}
	for {
		var name string
		if !p.string(&name) || !p.next(':') || !field(name) {
			return false
		}
		if p.next('}') {
			return true
		}
		if !p.next(',') {
			return false
		}
	}
}

// list reads a list of strings.
func (p *plainJSON) list(into *[]string) bool {
	if !p.next('[') {
		return false
	}
	if p.next(']') {
		return true
	}
	for {
		var s string
		if !p.string(&s) {
			return false
		}
		*into = append(*into, s)
		if p.next(']') {
			return true
		}
		if !p.next(',') {
			return false
		}
	}
}

// strings reads an object of strings, with each name once.
func (p *plainJSON) strings(into map[string]string) bool {
	return p.object(func(name string) bool {
		var value string
		_, again := into[name]
		if again || !p.string(&value) {
			return false
		}
		into[name] = value
		return true
	})
}
