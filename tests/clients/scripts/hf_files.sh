# `hf`: files up and down by the default client, the cache, pull requests and discussions.
expect() { said=$(cat); [[ $said == *"$1"* ]] || { echo "not in the output: $1" >&2; exit 1; }; }
lacks() { said=$(cat); [[ $said != *"$1"* ]] || { echo "in the output: $1" >&2; exit 1; }; }
refused() { if "$@" >out 2>&1; then echo "was not refused: $*" >&2; exit 1; fi; cat out; }

mkdir -p model/sub model/.cache
head -c 3000000 /dev/urandom > model/model.safetensors
head -c 200000 /dev/urandom > model/sub/more.bin
printf '{"a": 1}\n' > model/config.json
printf -- '---\nlicense: mit\n---\n# A model\n' > model/README.md
printf 'kept out\n' > model/notes.log
: > model/empty.txt
: > model/empty.bin
name="sub/näme with spaces & ünïcode 100%.txt"
printf 'odd\n' > "model/$name"

# --- up
hf upload hubkit/files model . --private --exclude "*.log" --commit-message "All" --commit-description "Of it"
hf upload hubkit/files model . --exclude "*.log" 2>&1 | expect "hubkit/files"   # nothing has changed
hf upload hubkit/files model/config.json settings/config.json
hf models list hubkit/files -R | expect "settings/config.json"
hf models list hubkit/files -R | lacks "notes.log"
printf 'late\n' > model/late.txt
hf upload hubkit/files model . --include "*.txt" --delete "settings/*"
hf models list hubkit/files -R | lacks "settings/"
mkdir many && for number in $(seq 300); do echo "$number" > "many/$number.txt"; done
hf upload hubkit/many many . --type dataset >/dev/null     # what `upload-large-folder` was
test "$(hf datasets list hubkit/many -R -q | grep -c 'txt$')" = 300
printf -- '---\nlicense: [not one\n---\n' > broken.md
refused hf upload hubkit/files broken.md README.md | expect "YAML"
refused hf upload hubkit/files model/config.json ../config.json | expect "config.json"

# --- down
hf download hubkit/files --local-dir down --exclude "*.md" >/dev/null
cmp model/model.safetensors down/model.safetensors && cmp model/sub/more.bin down/sub/more.bin
cmp "model/$name" "down/$name" && test -f down/empty.bin && test ! -e down/README.md
cached=$(hf download hubkit/files config.json -q)
cmp model/config.json "$cached"
hf download hubkit/files --include "sub/*" --dry-run | expect "more.bin"
hf download hubkit/files -q >/dev/null
hf download hf://hubkit/files/model.safetensors -q >/dev/null
HF_HUB_OFFLINE=1 hf download hubkit/files -q >/dev/null
hf download hubkit/many 1.txt 300.txt --type dataset -q >/dev/null
refused hf download hubkit/files missing.txt | expect "File not found"
refused hf download hubkit/nothing | expect "not found"
(unset HF_TOKEN; refused hf download hubkit/files README.md --cache-dir other | expect "not found")

# --- cache
hf cache list | expect "model/hubkit/files"
hf cache verify hubkit/files | expect "erified"
hf cache verify hubkit/files --local-dir down | expect "erified"
printf 'damaged' > "$(readlink -f "$cached")"
refused hf cache verify hubkit/files | expect "config.json"
hf download hubkit/files config.json --force-download -q >/dev/null
hf cache verify hubkit/files | expect "erified"
hf cache prune -y >/dev/null
hf cache rm model/hubkit/files -y >/dev/null
hf cache list | lacks "hubkit/files"

# --- pull requests and discussions
printf '{"a": 2}\n' > model/config.json
hf upload hubkit/files model/config.json config.json --create-pr --commit-message "Proposed" >/dev/null
hf discussions list hubkit/files --json | expect "Proposed"
hf discussions diff hubkit/files 1 | expect '+{"a": 2}'
hf discussions comment hubkit/files 1 --body "Thanks" >/dev/null
hf download hubkit/files config.json --revision refs/pr/1 --local-dir proposed >/dev/null
cmp model/config.json proposed/config.json
hf discussions merge hubkit/files 1 --comment "Merged" -y
hf discussions info hubkit/files 1 --json | expect '"merged"'
hf download hubkit/files config.json --local-dir down --force-download >/dev/null
cmp model/config.json down/config.json
hf discussions create hubkit/files --title "A question" --body "Why?" | expect "2"
hf discussions rename hubkit/files 2 "Another question"
hf discussions close hubkit/files 2 -y --comment "Because"
hf discussions info hubkit/files 2 --json | expect '"closed"'
hf discussions reopen hubkit/files 2 -y
hf discussions info hubkit/files 2 --json | expect 'Another question'

hf repos delete hubkit/files -y && hf repos delete hubkit/many --type dataset -y
