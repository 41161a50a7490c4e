package shape

import (
	"slices"
	"strings"
)

// Compare names the members that stored data has and the shape lacks, and the
// members that the shape has and the data lacks. It returns nil for data of another
// kind, which decoding refuses.
func (s *Shape) Compare(data []byte) (unknown, missing []string) {
	diff := difference{at: make([]string, 0, 16)}
	c := checker{data: data}
	if err := c.compare(s, &diff); err != nil {
		return nil, nil
	}
	return diff.unknown, diff.missing
}

// difference collects the members by which data differs from a shape.
type difference struct {
	unknown, missing []string

	// at is the path to the current value: member names, and "" for an element
	// of a list.
	at []string
}

// path returns the path to a member in the current value, such as "lots[].price".
func (d *difference) path(name string) string {
	path := ""
	for _, step := range d.at {
		switch {
		case step == "":
			path += "[]"
		case path == "":
			path = step
		default:
			path += "." + step
		}
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// addPath adds a path to a list, unless the list contains it or is full.
func addPath(list *[]string, path string) {
	const most = 8
	if len(*list) < most && !slices.Contains(*list, path) {
		*list = append(*list, path)
	}
}

// compare walks over stored data and collects the members that differ from the
// shape. It does not check values; decoding does.
func (c *checker) compare(s *Shape, d *difference) *DataError {
	b := c.peek()
	switch {
	case s.kind == kindNullable && b != 'n':
		return c.compare(s.elem, d)
	case s.kind == kindObject && b == '{':
		return c.compareObject(s, d)
	case s.kind == kindDictionary && b == '{':
		if err := c.enter(); err != nil {
			return err
		}
		for closed := c.accept('}'); !closed; {
			name, err := c.name()
			if err != nil {
				return err
			}
			if err := c.compareIn(string(name), s.elem, d); err != nil {
				return err
			}
			if closed = c.accept('}'); !closed && !c.accept(',') {
				return c.syntax("',' or '}'")
			}
		}
		c.depth--
		return nil
	case (s.kind == kindList || s.kind == kindFixed) && b == '[':
		if err := c.enter(); err != nil {
			return err
		}
		for closed := c.accept(']'); !closed; {
			if err := c.compareIn("", s.elem, d); err != nil {
				return err
			}
			if closed = c.accept(']'); !closed && !c.accept(',') {
				return c.syntax("',' or ']'")
			}
		}
		c.depth--
		return nil
	}
	return c.any()
}

// compareIn compares the value of a member, or of an element if step is "".
func (c *checker) compareIn(step string, s *Shape, d *difference) *DataError {
	d.at = append(d.at, step)
	err := c.compare(s, d)
	d.at = d.at[:len(d.at)-1]
	return err
}

func (c *checker) compareObject(s *Shape, d *difference) *DataError {
	if err := c.enter(); err != nil {
		return err
	}
	var few [16]bool
	seen := few[:]
	if len(s.members) > len(few) {
		seen = make([]bool, len(s.members))
	}
	for closed := c.accept('}'); !closed; {
		name, err := c.name()
		if err != nil {
			return err
		}
		i := s.memberFold(name)
		if i < 0 {
			addPath(&d.unknown, d.path(clip(name)))
			err = c.any()
		} else {
			seen[i] = true
			err = c.compareIn(s.members[i].name, s.members[i].shape, d)
		}
		if err != nil {
			return err
		}
		if closed = c.accept('}'); !closed && !c.accept(',') {
			return c.syntax("',' or '}'")
		}
	}
	c.depth--
	for i := range s.members {
		if m := &s.members[i]; !m.omitted && !seen[i] {
			addPath(&d.missing, d.path(m.name))
		}
	}
	return nil
}

// memberFold finds a member as encoding/json does: an exact match first, then one
// that differs in case.
func (s *Shape) memberFold(name []byte) int {
	if i := s.member(name); i >= 0 {
		return i
	}
	return slices.IndexFunc(s.members, func(m member) bool { return strings.EqualFold(m.name, string(name)) })
}
