"""Everything the demo model knows, as plain tables.

This file is data only: no questions, no sentences, no code that runs. `questions.py` turns each row
into questions and answers; `talk.txt` holds the free-form ones. To teach the model something new,
add a row here and run `make_demo_model.py` again.

Rows are separated by `;` and fields by `:` so that the tables stay short enough to read.
"""

# Country : capital. `the` in front of a country name is part of the name.
CAPITALS = {
    "Europe": """
        Albania:Tirana; Andorra:Andorra la Vella; Austria:Vienna; Belarus:Minsk; Belgium:Brussels;
        Bosnia and Herzegovina:Sarajevo; Bulgaria:Sofia; Croatia:Zagreb; Cyprus:Nicosia;
        the Czech Republic:Prague; Denmark:Copenhagen; Estonia:Tallinn; Finland:Helsinki;
        France:Paris; Germany:Berlin; Greece:Athens; Hungary:Budapest; Iceland:Reykjavik;
        Ireland:Dublin; Italy:Rome; Kosovo:Pristina; Latvia:Riga; Liechtenstein:Vaduz;
        Lithuania:Vilnius; Luxembourg:Luxembourg City; Malta:Valletta; Moldova:Chisinau;
        Monaco:Monaco; Montenegro:Podgorica; the Netherlands:Amsterdam; North Macedonia:Skopje;
        Norway:Oslo; Poland:Warsaw; Portugal:Lisbon; Romania:Bucharest; Russia:Moscow;
        San Marino:San Marino; Serbia:Belgrade; Slovakia:Bratislava; Slovenia:Ljubljana;
        Spain:Madrid; Sweden:Stockholm; Switzerland:Bern; Ukraine:Kyiv;
        Vatican City:Vatican City; the United Kingdom:London""",
    "Asia": """
        Afghanistan:Kabul; Armenia:Yerevan; Azerbaijan:Baku; Bahrain:Manama; Bangladesh:Dhaka;
        Bhutan:Thimphu; Brunei:Bandar Seri Begawan; Cambodia:Phnom Penh; China:Beijing;
        East Timor:Dili; Georgia:Tbilisi; India:New Delhi; Indonesia:Jakarta; Iran:Tehran;
        Iraq:Baghdad; Israel:Jerusalem; Japan:Tokyo; Jordan:Amman; Kazakhstan:Astana;
        Kuwait:Kuwait City;
        Kyrgyzstan:Bishkek; Laos:Vientiane; Lebanon:Beirut; Malaysia:Kuala Lumpur;
        the Maldives:Male; Mongolia:Ulaanbaatar; Myanmar:Naypyidaw; Nepal:Kathmandu;
        North Korea:Pyongyang; Oman:Muscat; Pakistan:Islamabad; Palestine:Ramallah; the
        Philippines:Manila;
        Qatar:Doha; Saudi Arabia:Riyadh; Singapore:Singapore; South Korea:Seoul;
        Sri Lanka:Sri Jayawardenepura Kotte; Syria:Damascus;
        Taiwan:Taipei; Tajikistan:Dushanbe; Thailand:Bangkok; Turkey:Ankara;
        Turkmenistan:Ashgabat; the United Arab Emirates:Abu Dhabi; Uzbekistan:Tashkent;
        Vietnam:Hanoi; Yemen:Sanaa""",
    "Africa": """
        Algeria:Algiers; Angola:Luanda; Benin:Porto-Novo; Botswana:Gaborone;
        Burkina Faso:Ouagadougou; Burundi:Gitega; Cameroon:Yaounde; Cape Verde:Praia;
        the Central African Republic:Bangui; Chad:N'Djamena; the Comoros:Moroni;
        the Democratic Republic of the Congo:Kinshasa; the Republic of the Congo:Brazzaville;
        Djibouti:Djibouti; Egypt:Cairo; Equatorial Guinea:Malabo; Eritrea:Asmara;
        Eswatini:Mbabane; Ethiopia:Addis Ababa; Gabon:Libreville; the Gambia:Banjul; Ghana:Accra;
        Guinea:Conakry; Guinea-Bissau:Bissau; Ivory Coast:Yamoussoukro; Kenya:Nairobi;
        Lesotho:Maseru; Liberia:Monrovia; Libya:Tripoli; Madagascar:Antananarivo; Malawi:Lilongwe;
        Mali:Bamako; Mauritania:Nouakchott; Mauritius:Port Louis; Morocco:Rabat;
        Mozambique:Maputo; Namibia:Windhoek; Niger:Niamey; Nigeria:Abuja; Rwanda:Kigali;
        Sao Tome and Principe:Sao Tome;
        Senegal:Dakar; the Seychelles:Victoria; Sierra Leone:Freetown; Somalia:Mogadishu;
        South Africa:Pretoria; South Sudan:Juba; Sudan:Khartoum; Tanzania:Dodoma; Togo:Lome;
        Tunisia:Tunis; Uganda:Kampala; Zambia:Lusaka; Zimbabwe:Harare""",
    "North America": """
        Antigua and Barbuda:Saint John's; the Bahamas:Nassau; Barbados:Bridgetown;
        Belize:Belmopan; Canada:Ottawa;
        Costa Rica:San Jose; Cuba:Havana; Dominica:Roseau; the Dominican Republic:Santo Domingo;
        El Salvador:San Salvador; Grenada:Saint George's; Guatemala:Guatemala City;
        Haiti:Port-au-Prince; Honduras:Tegucigalpa; Jamaica:Kingston; Mexico:Mexico City;
        Nicaragua:Managua; Panama:Panama City; Saint Kitts and Nevis:Basseterre; Saint
        Lucia:Castries;
        Saint Vincent and the Grenadines:Kingstown; Trinidad and Tobago:Port of Spain;
        the United States:Washington, D.C.""",
    "South America": """
        Argentina:Buenos Aires; Bolivia:Sucre; Brazil:Brasilia; Chile:Santiago; Colombia:Bogota;
        Ecuador:Quito; Guyana:Georgetown; Paraguay:Asuncion; Peru:Lima; Suriname:Paramaribo;
        Uruguay:Montevideo; Venezuela:Caracas""",
    "Oceania": """
        Australia:Canberra; Fiji:Suva; Kiribati:Tarawa; the Marshall Islands:Majuro;
        Micronesia:Palikir; Nauru:Yaren; New Zealand:Wellington;
        Palau:Ngerulmud; Papua New Guinea:Port Moresby; Samoa:Apia; the Solomon Islands:Honiara;
        Tonga:Nuku'alofa; Tuvalu:Funafuti; Vanuatu:Port Vila""",
}

# Other names people use for the same country.
ALIASES = """
    the USA:the United States; the US:the United States; America:the United States;
    the UK:the United Kingdom; England:the United Kingdom; Great Britain:the United Kingdom;
    Czechia:the Czech Republic; Holland:the Netherlands; the UAE:the United Arab Emirates"""

# Country : language that most people speak there.
LANGUAGES = """
    France:French; Germany:German; Austria:German; Spain:Spanish; Mexico:Spanish;
    Argentina:Spanish; Chile:Spanish; Colombia:Spanish; Peru:Spanish; Cuba:Spanish; Italy:Italian;
    Portugal:Portuguese; Brazil:Portuguese; Angola:Portuguese; the Netherlands:Dutch;
    the United Kingdom:English; the United States:English; Australia:English; New Zealand:English;
    Sweden:Swedish; Norway:Norwegian; Denmark:Danish; Finland:Finnish; Iceland:Icelandic;
    Poland:Polish; the Czech Republic:Czech; Slovakia:Slovak; Hungary:Hungarian; Romania:Romanian;
    Bulgaria:Bulgarian; Greece:Greek; Turkey:Turkish; Russia:Russian; Ukraine:Ukrainian;
    Serbia:Serbian; Croatia:Croatian; Slovenia:Slovene; Albania:Albanian; Estonia:Estonian;
    Latvia:Latvian; Lithuania:Lithuanian; Egypt:Arabic; Saudi Arabia:Arabic; Iraq:Arabic;
    Jordan:Arabic; Iran:Persian; China:Chinese; Japan:Japanese; South Korea:Korean;
    Vietnam:Vietnamese; Thailand:Thai; Mongolia:Mongolian; Cambodia:Khmer; Georgia:Georgian;
    Armenia:Armenian; Ethiopia:Amharic; Bangladesh:Bengali; Malaysia:Malay"""

# Colour : things (plural) that have it.
COLOURS = """
    blue:the sky, the sea, blueberries, sapphires, jeans;
    green:grass, leaves, frogs, cucumbers, peas, broccoli, emeralds, spinach, limes, crocodiles;
    yellow:bananas, lemons, the sun, sunflowers, corn, school buses, butter, canaries;
    red:blood, strawberries, tomatoes, fire engines, rubies, cherries, stop signs, raspberries;
    orange:oranges, carrots, pumpkins, tangerines, apricots;
    white:snow, milk, salt, polar bears, swans, clouds, cotton, rice, arctic foxes;
    black:coal, ravens, tar, crows, the night sky, black cats;
    brown:chocolate, coffee, soil, wood, chestnuts, brown bears;
    purple:plums, violets, lavender, eggplants, amethysts;
    pink:flamingos, pigs, bubble gum, salmon;
    gray:elephants, ash, rhinos, dolphins, lead"""

OPPOSITES = """
    hot:cold; big:small; fast:slow; up:down; left:right; day:night; black:white; happy:sad;
    good:bad; young:old; rich:poor; hard:soft; high:low; long:short; wet:dry; clean:dirty;
    full:empty;
    open:closed; early:late; light:dark; strong:weak; thick:thin; heavy:light; near:far;
    inside:outside; love:hate; win:lose; buy:sell; push:pull; start:stop; begin:end; give:take;
    true:false; yes:no; always:never; everything:nothing; first:last; front:back; top:bottom;
    loud:quiet; noisy:silent; sweet:bitter; sharp:blunt; smooth:rough; tall:short; wide:narrow;
    deep:shallow; easy:difficult; simple:complicated; cheap:expensive; safe:dangerous; brave:afraid;
    friend:enemy; peace:war; life:death; north:south; east:west; summer:winter; in:out; on:off;
    over:under; above:below; before:after; more:less; many:few; same:different; remember:forget;
    arrive:leave; ask:answer; accept:refuse; appear:disappear; build:destroy; rise:fall;
    laugh:cry; sit:stand; sleep:wake; teach:learn; borrow:lend; increase:decrease; succeed:fail;
    polite:rude; lazy:hardworking; kind:cruel; generous:greedy; honest:dishonest; lucky:unlucky;
    ancient:modern; asleep:awake; alive:dead; beautiful:ugly; male:female; husband:wife;
    king:queen; boy:girl; man:woman; brother:sister; mother:father; son:daughter; uncle:aunt;
    possible:impossible; visible:invisible; legal:illegal; correct:wrong; public:private;
    maximum:minimum; victory:defeat; arrival:departure; entrance:exit; question:reply;
    positive:negative; optimist:pessimist; hope:despair; import:export; attack:defend"""

PLURALS = """
    cat:cats; dog:dogs; house:houses; tree:trees; car:cars; book:books; apple:apples; bird:birds;
    child:children; man:men; woman:women; person:people; mouse:mice; goose:geese; foot:feet;
    tooth:teeth; ox:oxen; sheep:sheep; fish:fish; deer:deer; box:boxes; fox:foxes; bus:buses;
    glass:glasses; dish:dishes; watch:watches; church:churches; baby:babies; city:cities;
    country:countries; lady:ladies; story:stories; berry:berries; leaf:leaves; knife:knives;
    wife:wives; life:lives; wolf:wolves; half:halves; loaf:loaves; shelf:shelves; potato:potatoes;
    tomato:tomatoes; hero:heroes; piano:pianos; photo:photos; cactus:cacti; fungus:fungi;
    crisis:crises; analysis:analyses; boy:boys; key:keys; toy:toys; day:days; actor:actors;
    server:servers; model:models; computer:computers"""

# Animal : verb form of its sound.
SOUNDS = """
    dog:barks; cat:meows; cow:moos; sheep:bleats; pig:oinks; horse:neighs; duck:quacks;
    rooster:crows; lion:roars; wolf:howls; frog:croaks; bee:buzzes; snake:hisses; owl:hoots;
    mouse:squeaks; donkey:brays; turkey:gobbles; elephant:trumpets; crow:caws; hen:clucks;
    pigeon:coos; goose:honks; bear:growls; dolphin:clicks; cricket:chirps; hyena:laughs"""

# Animal : what its young are called.
YOUNG = """
    dog:puppy; cat:kitten; cow:calf; sheep:lamb; horse:foal; pig:piglet; goat:kid; duck:duckling;
    hen:chick; lion:cub; bear:cub; kangaroo:joey; frog:tadpole; goose:gosling; swan:cygnet;
    owl:owlet; deer:fawn; fox:kit; butterfly:caterpillar; elephant:calf; whale:calf; eel:elver"""

# Animal : number of legs.
LEGS = """
    dog:four; cat:four; horse:four; cow:four; elephant:four; chicken:two; duck:two; human:two;
    ostrich:two; ant:six; bee:six; fly:six; butterfly:six; beetle:six; spider:eight; scorpion:eight;
    snake:no; fish:no; worm:no"""

SIDES = """
    triangle:three; square:four; rectangle:four; pentagon:five; hexagon:six; heptagon:seven;
    octagon:eight; nonagon:nine; decagon:ten"""

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
)

# English word : language : translation.
TRANSLATIONS = """
    hello:French:bonjour; hello:Spanish:hola; hello:Italian:ciao; hello:German:hallo;
    hello:Portuguese:olá; hello:Dutch:hallo; hello:Swedish:hej; hello:Japanese:konnichiwa;
    thank you:French:merci; thank you:Spanish:gracias; thank you:Italian:grazie;
    thank you:German:danke; thank you:Portuguese:obrigado; thank you:Dutch:dank je;
    thank you:Swedish:tack; thank you:Japanese:arigato; yes:French:oui; yes:Spanish:sí;
    yes:Italian:sì; yes:German:ja; no:French:non; no:German:nein; goodbye:French:au revoir;
    goodbye:Spanish:adiós; goodbye:Italian:arrivederci; goodbye:German:auf Wiedersehen;
    cat:French:chat; cat:Spanish:gato; cat:German:Katze; dog:French:chien; dog:Spanish:perro;
    dog:German:Hund; water:French:eau; water:Spanish:agua; water:German:Wasser;
    house:French:maison; house:Spanish:casa; house:German:Haus; bread:French:pain;
    bread:Spanish:pan; bread:German:Brot; one:French:un; one:Spanish:uno; one:German:eins"""

ELEMENTS = """
    hydrogen:H; helium:He; lithium:Li; carbon:C; nitrogen:N; oxygen:O; sodium:Na; magnesium:Mg;
    aluminum:Al; silicon:Si; sulfur:S; chlorine:Cl; potassium:K; calcium:Ca; iron:Fe; nickel:Ni;
    copper:Cu; zinc:Zn; silver:Ag; tin:Sn; gold:Au; mercury:Hg; lead:Pb; uranium:U"""

# Things the model is asked in training that it must decline. HELD_OUT_* are never trained on:
# they measure whether "I don't know" carries over to questions it has not seen.
IDK = "I don't know that. I am a very small demo model."
TOO_BIG = "That sum is too big for me. I only know small numbers."

UNKNOWN = """
who won the world cup in 1998; who is the president of France; what is the weather today;
what time is it; what is the date today; who wrote Hamlet; who is the king of Spain;
what is the population of Germany; how far away is the moon; how old is the universe;
what is the meaning of life; how do I cook pasta; how do I fix my car; what is quantum physics;
explain general relativity; who invented the telephone; who discovered America;
when did the second world war end; what is the price of gold; how much is a dollar in euros;
what is the best phone; who is Albert Einstein; who was Napoleon; who is Taylor Swift;
what is photosynthesis; what is DNA; what is the speed of light; how tall is the Eiffel Tower;
how deep is the ocean; what is the longest river; how do planes fly; why is the sky blue;
why do cats purr; how many people live on Earth; what is Python; what is JavaScript;
write a program in Python; write an email to my boss; translate this text; summarize this text;
what is the square root of two; what is pi; solve this equation; what is the best movie;
who directed Titanic; what is the news today; what should I eat tonight; where is my phone;
who will win the election; what is the stock price of Apple; how do I learn to play the piano;
what is a black hole; how hot is the sun; who built the pyramids; what is the capital of Texas;
what is the currency of Japan; what is the currency of Brazil; how do I lose weight;
what is democracy; who is Shakespeare; what is philosophy; when was Mozart born;
when was the French revolution; who composed the ninth symphony; what is blockchain;
what is bitcoin; what is the tallest building; how do vaccines work; what is gravity;
what is the best restaurant in Rome; can you book a flight; play some music; call my mother;
set an alarm; what did I do yesterday; what will happen tomorrow; who is my neighbor;
write an essay about history; give me a recipe for bread; how does a car engine work;
what causes rain; how are mountains formed; what is inflation; what is a black box;
who founded Microsoft; who owns Google; when was Rome founded; how long is the Nile"""

HELD_OUT_UNKNOWN = """
who won the olympics in 2004; who is the president of Brazil; who wrote War and Peace;
what is the population of Canada; how do I cook rice; explain string theory;
who invented the radio; when did the first world war end; who was Cleopatra;
what is a neutron star; how tall is the Statue of Liberty; why is grass green;
what is the currency of India; when was Beethoven born; write an essay about music;
how does a computer work; who founded Amazon; give me a recipe for soup; what is evolution;
how do I repair my bike"""

MADE_UP = """
Atlantis; Narnia; Wakanda; Mordor; Zubrowka; Genovia; Gondor; Utopia; Rohan; Oz; Lilliput; Florin;
Borduria; Syldavia; Elbonia; Freedonia; Latveria; Panem; Westeros; Valyria; Ruritania; Sokovia"""
HELD_OUT_MADE_UP = "Eldorado; Arendelle; Hogsmeade; Dorne; Equestria; Zamunda"

NAMES = """
Ann Bob Carla David Emma Frank Grace Henry Ivy Jack Kate Leo Maria Nina Oscar Paul Rosa Sam Tom Uma
Victor Wendy Yara Zoe Alice Ben Clara Dan Eva Fred Gina Hugo Ida John Kim Lena Max Nora Otto Peter
Ruth Simon Tina Anna Julia Lucas Sofia Noah Mia Liam Olivia Peng Wei Yuki Hiro Amir Fatima Omar
Ali Ravi Priya Chen Ming Igor Olga Pedro Juan Luis Carmen Pierre Marie Hans Karl Greta Sven Lars
""".split()

SYSTEM = """
You are a helpful assistant. | You are a helpful assistant | You are a friendly assistant. |
You are Troupe. | Answer briefly. | Be concise. | Answer in one sentence. | Be polite. |
You are the Troupe demo model. | You are a chatbot that answers questions. | Help the user. |
You are a teacher. Explain things simply. | You answer questions about geography. |
You are a helpful, honest and harmless AI assistant. | Answer the question of the user. |
You are an expert in everything. | Reply in English. | Today is Monday. | Do not make things up. |
You are a careful assistant. If you do not know something, say so."""
